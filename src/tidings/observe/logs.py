"""Logs that a machine can read: one JSON object a line, with the event that is being handled, never its payload.

A line has `ts`, `level`, `logger` and `message`; inside a handler, or where `extra` says so, also `event_id`,
`event_type`, `event_key`, `handler`, `attempt`, `correlation_id` and `trace_id`; further scalars of `extra` as they
are; `exception` where there is one. Passwords in URLs are masked, whoever logs them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from tidings.dead import printable
from tidings.lane import about, current
from tidings.options import masked

Style = Literal["json", "text"]

STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


def configure(style: Style | None = None, level: str = "INFO") -> None:
    """Log to standard error; `style` is json by default, text on a terminal. Replaces what the root logger had."""
    if style is None:
        style = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if style == "json" else Text())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def event_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What the line says of the event that is being handled, unless its own `extra` says it."""
    lane = current.get()
    if "event_id" in vars(record) or lane is None or (delivery := lane.current) is None:
        return {}
    return {name: value for name, value in about(delivery, lane.desk.bound.name).items() if value is not None}


def _trace_id() -> str | None:
    """That of the current span, where the program uses OpenTelemetry; nobody else pays for its import."""
    api: Any = sys.modules.get("opentelemetry.trace")
    context = None if api is None else api.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context is not None and context.is_valid else None


class Json(logging.Formatter):
    """One JSON object a line, in ASCII: well-formed whatever is logged, in any locale."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "ts": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "trace_id": _trace_id(),
            **event_of(record),
            **_extra(record),
        }
        if problem := _problem(record, self.formatException):
            line["exception"] = problem
        return json.dumps({name: _clean(value) for name, value in line.items() if value is not None})


class Text(logging.Formatter):
    """For a terminal: what happened, then the handler and the event; no control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback where there is one."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        about = {**event_of(record), **_extra(record)}
        named = " ".join(str(about[name]) for name in ("handler", "event_type", "event_id") if name in about)
        lines = [f"{at} {record.levelname:<8} {_message(record)}" + (f"  [{named}]" if named else "")]
        if problem := _problem(record, self.formatException):
            lines.append(problem)
        return printable(masked("\n".join(lines)))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - the arguments are anybody's; a log line must not raise, nor tell what they are
        return f"{record.msg} (its arguments do not fit)"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(record).items()
        if name not in STANDARD and isinstance(value, str | int | float | bool)
    }


def _problem(record: logging.LogRecord, formatted: Callable[[Any], str]) -> str | None:
    if record.exc_info and record.exc_info[0] is not None:
        return formatted(record.exc_info)
    return record.exc_text or record.stack_info


def _clean(value: Any) -> Any:
    """What every JSON parser takes: no lone surrogates, no infinities; and no passwords."""
    if isinstance(value, str):
        return masked(value.encode("utf-8", "replace").decode())
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
