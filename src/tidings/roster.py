"""Who is in a group and which parts of the keys belong with whom: decided alike by each member from what it sees.

For servers that keep only what they are told. No member leads: where two see different things for a moment, the fence
of the part decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from tidings.clock import Clock


def part_of(key: str | None, id: str, parts: int) -> int:
    """Which part holds a key: CRC-32 (that of zlib) of its UTF-8, modulo the parts. Without a key, that of the id."""
    return zlib.crc32((id if key is None else key).encode()) % parts


class Sign(NamedTuple):
    """The latest sign of life of a member: a number that changes with each, and when the server got it."""

    revision: int
    at: float


class Life:
    """Who is alive: whose sign changed in the last `lease` seconds of our own clock.

    Who is seen for the first time is as old as the server's clock says: a member that starts after a crash of all need
    not wait.
    """

    def __init__(self, clock: Clock, lease: float) -> None:
        self._clock = clock
        self._lease = lease
        self._since: dict[str, tuple[int, float]] = {}

    def alive(self, members: Mapping[str, Sign]) -> list[str]:
        """Their names, in order."""
        now = self._clock.monotonic()
        latest = max((sign.at for sign in members.values()), default=0.0)
        known: dict[str, tuple[int, float]] = {}
        for name, sign in members.items():
            revision, since = self._since.get(name, (0, 0.0))
            if revision == sign.revision:
                known[name] = (revision, since)
            else:
                known[name] = (sign.revision, now if revision else now - (latest - sign.at))
        self._since = known
        return sorted(name for name, (_, since) in known.items() if now - since <= self._lease)


def share(parts: int, alive: Sequence[str], me: str, *, group: str) -> int:
    """How many of the parts belong with this member: all have as many, or one more; who has more differs by group."""
    first = zlib.crc32(group.encode()) % max(len(alive), 1)
    turned = [*alive[first:], *alive[:first]]
    rank = turned.index(me) if me in turned else len(turned)
    count = max(len(turned), rank + 1)
    return parts // count + (rank < parts % count)


def claimable(others: Mapping[int, str | None], alive: Collection[str], me: str, most: int) -> list[int]:
    """Which of the parts to claim that we have not, each with its member; at most `most`.

    Those of nobody who is alive; and however many they are, those that are our own, though we were not told.
    """
    ours = [number for number, member in others.items() if member == me]
    free = [number for number, member in others.items() if member not in alive and member != me]
    return ours + free[: max(0, most - len(ours))]


class Held(Protocol):
    """A part that a member has."""

    leaving: float | None
    """Until when (monotonic) what is out of it may be settled before it goes; None while it stays."""

    @property
    def pending(self) -> int:
        """How many are out of it."""
        ...


P = TypeVar("P", bound=Held)


def let_go(parts: Iterable[Held], quota: int, until: float) -> None:
    """What is more than our share is not lent any more, that of which the least is out first."""
    staying = sorted(parts, key=lambda part: (part.leaving is not None, -part.pending))
    for part in staying[:quota]:
        part.leaving = None
    for part in staying[quota:]:
        if part.leaving is None:
            part.leaving = until


def going(parts: Iterable[P], now: float) -> tuple[list[P], bool]:
    """What goes now: that of which nothing is out, or which was waited for long enough; and whether there is such."""
    leaving = [(part, part.leaving) for part in parts if part.leaving is not None]
    late = [part for part, until in leaving if part.pending and until <= now]
    return [part for part, _ in leaving if not part.pending] + late, bool(late)
