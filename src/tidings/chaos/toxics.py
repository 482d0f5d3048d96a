"""What a proxy does to connections: latency, a reset, silence.

Names and meanings are those of Toxiproxy's toxics where it has them (https://github.com/Shopify/toxiproxy#toxics).
Each is a frozen Struct that msgspec also converts from a table of a profile: `{kind = "latency", seconds = 0.1}`.
Raised for numbers that cannot be: ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec

Way: TypeAlias = Literal["up", "down"]
"""From the client to the target, or from the target to the client."""


class Toxic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag=str.lower):
    """A fault of whole connections. Not for direct use."""

    @property
    def kind(self) -> str:
        """Its name in profiles and reports."""
        return str(self.__struct_config__.tag)

    def covers(self, way: Way) -> bool:
        """Whether it is about what is sent this way."""
        return way in ("up", "down")

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value: Any = getattr(self, name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{self.kind}: {name} is {value!r}, which is less than 0")


class OneWay(Toxic, frozen=True, kw_only=True):
    """A fault of what is sent one way, or each way for itself. Not for direct use."""

    direction: Way | Literal["both"] = "both"

    def covers(self, way: Way) -> bool:
        """See Toxic.covers."""
        return self.direction in (way, "both")


class Latency(OneWay, frozen=True):
    """What is sent arrives `seconds` later, give or take `jitter`. The order stays."""

    seconds: float
    jitter: float = 0.0


class Bandwidth(OneWay, frozen=True):
    """At most `rate` bytes a second."""

    rate: float

    def __post_init__(self) -> None:
        """Raises ValueError for no rate at all."""
        if not self.rate > 0:
            raise ValueError(
                f"bandwidth: rate is {self.rate!r}, which is not over 0; what lets nothing pass is half_open"
            )


class Slicer(OneWay, frozen=True):
    """What is sent arrives in pieces of at most `size` bytes, `pause` seconds apart."""

    size: int
    pause: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for pieces of nothing."""
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"slicer: size is {self.size!r}, which is less than 1")


class SlowClose(OneWay, frozen=True, tag="slow_close"):
    """That a side has closed arrives `seconds` later."""

    seconds: float


class LimitData(OneWay, frozen=True, tag="limit_data"):
    """Both sides find the connection closed when `bytes` more have been passed on; at once for 0."""

    bytes: int


class Reset(OneWay, frozen=True):
    """Both sides find the connection reset (RST) when `after` more bytes have been passed on; at once for 0."""

    after: int = 0


class HalfOpen(OneWay, frozen=True, tag="half_open"):
    """What is sent vanishes, also that a side has closed or crashed; who sends does not notice.

    TCP knows no holes: a connection that has lost something stays silent that way when the fault has been healed.
    """


class BlackHole(Toxic, frozen=True, tag="black_hole"):
    """New connections are accepted with nobody behind them, and what is sent on any vanishes, as of HalfOpen."""


class Refuse(Toxic, frozen=True):
    """New connections are refused. Those that are open go on."""


class Down(Toxic, frozen=True):
    """New connections are refused and those that are open are closed, as when the target's process is gone."""


Fault: TypeAlias = Latency | Bandwidth | Slicer | SlowClose | LimitData | Reset | HalfOpen | BlackHole | Refuse | Down


class Rules(msgspec.Struct, frozen=True):
    """The faults that hold one way, by kind."""

    latency: Latency | None = None
    bandwidth: Bandwidth | None = None
    slicer: Slicer | None = None
    slow_close: SlowClose | None = None
    limit_data: LimitData | None = None
    reset: Reset | None = None
    half_open: HalfOpen | None = None
    black_hole: BlackHole | None = None
    refuse: Refuse | None = None
    down: Down | None = None

    @property
    def silence(self) -> HalfOpen | BlackHole | None:
        """What makes bytes vanish."""
        return self.half_open or self.black_hole

    @property
    def refusal(self) -> Refuse | Down | None:
        """What refuses new connections."""
        return self.refuse or self.down

    @property
    def end(self) -> tuple[int, Down | Reset | LimitData] | None:
        """After how many bytes a connection has to end, and what ends it: the first of several."""
        ends: list[tuple[int, Down | Reset | LimitData]] = []
        if self.down:
            ends.append((0, self.down))
        if self.reset:
            ends.append((self.reset.after, self.reset))
        if self.limit_data:
            ends.append((self.limit_data.bytes, self.limit_data))
        return min(ends, key=lambda end: end[0], default=None)


def rules(faults: Iterable[Fault], way: Way) -> Rules:
    """What holds this way. Raises ValueError where two faults of a kind do."""
    found: dict[str, Any] = {}
    for fault in faults:
        if fault.covers(way):
            if fault.kind in found:
                raise ValueError(f"{found[fault.kind]} and {fault} cannot both hold {way}stream")
            found[fault.kind] = fault
    return Rules(**found)
