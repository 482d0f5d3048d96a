"""What a server tells those who only look: which promises its settings keep, and which topics and groups lie on it.

An adapter has a module `survey` in its package, whose `Surveyor` looks, and one `checkup`, which judges what was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from tidings.errors import ConfigError

State = Literal["ok", "warn", "bad"]

KILLED, POWER, MACHINE = "server killed", "power cut", "machine lost"
ORDER, ONCE, REPLAY = "order by key", "id kept once", "replay"
"""The promises; of each there is a finding for each server. First: what is kept of what was acknowledged, when."""
SHOWN = 3
DAY = 86400.0


class Finding(NamedTuple):
    """One line of a report: ok where all is well, bad where something promised does not hold, warn in between."""

    check: str
    state: State
    detail: str
    remedy: str | None = None


class Wish(NamedTuple):
    """What the settings ask of a server: `limit` in bytes of a body, `keep` and `lease` in seconds.

    `store` is whether there is one beside it.
    """

    limit: int
    keep: float | None
    lease: float
    store: bool


class Topic(NamedTuple):
    """A topic. `size` is in bytes of payload and headers; `ever` is how many events it was ever given.

    What is not known, or would take reading too much, is None.
    """

    name: str
    events: int | None
    first: float | None
    last: float | None
    delayed: int | None
    size: int | None
    groups: list[str]
    ever: int | None = None


class Census(NamedTuple):
    """The topics by name, and how many members groups have; a group that is not there has none that is known."""

    topics: list[Topic]
    members: dict[str, int]


class Surveyor(Protocol):
    """A connection to a server that changes nothing there. `monitor` is where it tells its operators of itself."""

    async def open(self) -> None:
        """Connect. Raises a BrokerError that says what to do."""
        ...

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        ...

    async def findings(self, wish: Wish) -> Sequence[Finding]:
        """What the server's settings are worth. Raises a BrokerError where it does not answer."""
        ...

    async def census(self) -> Census:
        """What lies on the server. Raises a BrokerError where it cannot tell."""
        ...


# -- what is the same of every server


def unmonitored(monitor: str | None) -> None:
    """For a server that tells all to its clients. Raises ConfigError where more is asked of it."""
    if monitor is not None:
        raise ConfigError("This server tells its clients all that is to be known: leave --monitor out.")


def limited(largest: int, wish: Wish, raised: str) -> Finding:
    """Whether bodies that the settings allow get through; `raised` says how to let them."""
    if largest < wish.limit:
        detail = f"the server takes {size(largest)}, `body_limit` allows {size(wish.limit)}: what is larger is refused"
        return Finding("body limit", "warn", detail, f"{raised}, or set `body_limit` to {largest} at most")
    return Finding("body limit", "ok", f"the server takes {size(largest)}, `body_limit` is {size(wish.limit)}")


def once(window: float | None, wish: Wish) -> Finding:
    """Whether an id that is published again has an effect; `window` in seconds is how long the server itself knows."""
    known = f"the server knows an id for {span(window)}" if window else "the server keeps what comes twice twice"
    if wish.store:
        return Finding(ONCE, "ok", f"{known}; the inbox of the store knows for {span(wish.keep or 7 * DAY)}")
    if window:
        return Finding(ONCE, "ok", f"{known}; a store would know longer: --store")
    return Finding(ONCE, "warn", f"{known}, and no store is named whose inbox would know", "name a store: --store")


def kept_long(topics: Iterable[tuple[str, float]], wish: Wish) -> Finding:
    """Whether topics keep what a group could go back to; of each its name and for how many seconds it keeps."""
    kept = dict(topics)
    wanted = wish.keep
    short = [name for name, seconds in kept.items() if wanted is not None and seconds < wanted]
    if wanted is not None and short:
        detail = f"{names(short)} keeps less than the {span(wanted)} that `keep` asks for"
        return Finding(REPLAY, "warn", detail, "a topic is kept as it was made: change it on the server")
    least = min(kept.values(), default=None)
    if least is None or least == float("inf"):
        return Finding(REPLAY, "ok", "a group can go back to all that topics keep")
    return Finding(REPLAY, "ok", f"a group can go back {span(least)} at least")


def names(found: Sequence[str]) -> str:
    """Some of these, and how many there are beside."""
    shown = ", ".join(found[:SHOWN])
    return shown if len(found) <= SHOWN else f"{shown} and {len(found) - SHOWN:,} more"


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def span(seconds: float) -> str:
    """A duration in the unit that fits."""
    for unit, length in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
