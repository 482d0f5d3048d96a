"""Who is in a group and which parts of the keys belong with whom: decided alike by each member from what it sees.

For servers that keep only what they are told. No member leads: where two see different things for a moment, the fence
of the part decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


def share(parts: int, alive: Sequence[str], me: str) -> int:
    """How many of the parts belong with this member: all have as many, or one more."""
    rank = alive.index(me) if me in alive else len(alive)
    count = max(len(alive), rank + 1)
    return parts // count + (rank < parts % count)
