"""Who is in a group on a topic, and whose each part is: one look at the bucket, and decisions about what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tidings import binding
from tidings.clock import Clock
from tidings.jetstream.cursor import State, decode
from tidings.jetstream.naming import Place
from tidings.jetstream.server import DEADLINE, fields
from tidings.jetstream.wire import Question, Wire


class Sign(NamedTuple):
    """The latest sign of life of a member: its revision, and when the server wrote it."""

    revision: int
    at: float


class Seen(NamedTuple):
    """The state of a part and its revision."""

    state: State
    revision: int


class Sight(NamedTuple):
    """A group on a topic at one moment."""

    parts: dict[int, Seen]
    members: dict[str, Sign]


async def look(wire: Wire, bucket: str, place: Place) -> Sight:
    """See who is there and whose each part is. A server that lags behind may show what was true a moment ago."""
    body = msgspec.json.encode({"multi_last": [place.all], "batch": 1024})
    answers = await wire.ask_many(Question(f"$JS.API.DIRECT.GET.{bucket}".encode(), body), DEADLINE)
    sight = Sight({}, {})
    for answer in answers:
        told = fields(answer.headers)
        name = told[b"Nats-Subject"].decode()[len(place.root) + 1 :]
        revision = int(told[b"Nats-Sequence"])
        if b"KV-Operation" in told:
            continue
        if name.startswith("member."):
            sight.members[name[7:]] = Sign(revision, binding.seconds(told[b"Nats-Time-Stamp"].decode()))
        else:
            sight.parts[int(name)] = Seen(decode(answer.data), revision)
    return sight


class Life:
    """Who is alive: whose sign changed in the last `lease` seconds of our own clock.

    Who is seen for the first time is as old as the server's clock says: a member that starts after a crash of all need
    not wait.
    """

    def __init__(self, clock: Clock, lease: float) -> None:
        self._clock = clock
        self._lease = lease
        self._since: dict[str, tuple[int, float]] = {}

    def alive(self, members: dict[str, Sign]) -> list[str]:
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
