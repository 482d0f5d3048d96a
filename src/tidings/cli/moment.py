"""Times and durations as people write and read them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from tidings.broker import Start
from tidings.clock import Clock

AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])(?: ago)?")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
ENDS = {"start": Start.EARLIEST, "end": Start.LATEST}


class Moment(click.ParamType[Start | float]):
    """A place in the log: `start`, `end`, a time (ISO 8601, local where it names no zone) or how long ago (90s, 2h)."""

    name = "start|end|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Start | float:
        """See click.ParamType.convert."""
        if isinstance(value, Start | float):
            return value
        if value in ENDS:
            return ENDS[value]
        if ago := AGO.fullmatch(value):
            return Clock().now() - float(ago[1]) * UNITS[ago[2]]
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time. Write start, end, 2026-05-01T12:00 or how long ago: 90s, 10m, 2h, 1d.")


def local(seconds: float | None) -> str | None:
    """A time since the epoch as people of here read it."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: float | None) -> str | None:
    """A time since the epoch as programs read it: RFC 3339 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float | None) -> str | None:
    """A duration in its two largest units."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, hours = seconds / 60, seconds / 3600
    if hours < 1:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(hours)} h {int(minutes % 60)} min" if hours < 48 else f"{int(hours / 24)} d {int(hours % 24)} h"
