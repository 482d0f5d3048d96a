"""What a run does: how many events of which kind, and which processes suffer what, where."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec

WORKER, PUBLISHER = "worker", "publisher"
"""What a process does."""

KILL = "kill"
"""So many kills, spread over `kill_worker`, `kill_publisher` and all named places."""
KILL_WORKER, KILL_PUBLISHER, FREEZE, STOP, ROLL = "kill_worker", "kill_publisher", "freeze", "stop", "roll"
"""At a moment by chance: kill -9; a worker stands still (SIGSTOP) for longer than its lease; a worker is told to stop
(SIGTERM) and has to end in order; all workers are, one after the other."""
REPUBLISH = "republish"
"""A publisher publishes an event a second time under the same id."""
KILL_BROKER, RESTART_BROKER, FREEZE_BROKER = "kill_broker", "restart_broker", "freeze_broker"
CUT, TORN, REFUSED, BLACK_HOLE = "cut", "torn", "refused", "black_hole"
HALF_OPEN, HALF_OPEN_UP, SLOW, THIN = "half_open", "half_open_up", "slow", "thin"
"""Of a server that the run has started, and of the way to it: kill -9, an orderly restart, a time in which it stands
still; all connections reset, at once or after some bytes; for a time nobody gets through to it, or nothing gets there,
or nothing comes back, or nothing arrives of what is sent; or all of it late, or in small pieces and slowly."""
ON_WAY = (CUT, TORN, REFUSED, BLACK_HOLE, HALF_OPEN, HALF_OPEN_UP, SLOW, THIN)
ON_BROKER = (KILL_BROKER, RESTART_BROKER, FREEZE_BROKER, *ON_WAY)
AT_RANDOM = (KILL_WORKER, KILL_PUBLISHER, FREEZE, STOP, ROLL, *ON_BROKER)


class Place(NamedTuple):
    """A place of `tidings.failpoint` at which a process dies.

    `passage` is the latest at which a worker does: low enough to be reached soon after a start; a publisher passes its
    places with every event, and dies when it comes to it. What is `rare` waits for what other processes do, so one
    worker is kept for that.
    """

    passage: int = 1
    role: str = WORKER
    rare: bool = False


PLACES = {
    "draining": Place(1),
    "handled": Place(100),
    "in_handler": Place(100),
    "lent": Place(50),
    "settling": Place(50),
}
"""Those of the engine and of the service; a broker has more."""

SOLD, RETURNED, NOTED = "sold", "returned", "noted"
"""Kinds of events."""

Positive = Annotated[float, msgspec.Meta(gt=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
AtLeastNone = Annotated[int, msgspec.Meta(ge=0)]


def _usual() -> dict[str, int]:
    return {KILL: 20, FREEZE: 1, STOP: 1}


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run: what a profile says, and what a flag says instead. Durations in seconds.

    `lease` is how long a silent worker keeps its events, and `freeze` how long a frozen one stands still (one and a
    half leases by default). Publishers wait while more than `backlog` deliveries are pending. A run in which nothing
    moves for `patience` is broken off, however long it takes otherwise; with `time_limit` also when that is over.
    `service` is the `module:function` that makes the app under test.
    """

    events: AtLeastOne = 10_000
    keys: AtLeastOne = 64
    workers: AtLeastOne = 3
    publishers: AtLeastOne = 2
    lease: Positive = 3.0
    freeze: Positive | None = None
    backlog: AtLeastOne = 20_000
    patience: Positive = 60.0
    time_limit: Positive | None = None
    faults: dict[str, AtLeastNone] = msgspec.field(default_factory=_usual)
    seed: int = 0
    profile: str = ""
    service: str = "tidings.chaos.service:build"

    def planned(self, places: Mapping[str, Place]) -> Counter[str]:
        """How often each kind of fault has to happen, where a process can die at these places."""
        found = Counter({kind: count for kind, count in self.faults.items() if kind != KILL and count})
        names = [*places]
        random.Random(self.seed).shuffle(names)  # noqa: S311 - a seed repeats it
        kinds = [KILL_WORKER, KILL_PUBLISHER, *names, KILL_WORKER, KILL_PUBLISHER, KILL_WORKER]
        kills = self.faults.get(KILL, 0)
        return found + Counter((kinds * (kills // len(kinds) + 1))[:kills])

    @property
    def frozen_for(self) -> float:
        """How long a freeze lasts."""
        return self.freeze or 1.5 * self.lease


class Happening(NamedTuple):
    """What number `number` is: something sold or returned under a key, or a note without one; delayed by seconds."""

    number: int
    kind: str
    key: str = ""
    delay: float | None = None


def happening(plan: Plan, number: int) -> Happening:
    """The keys of an event belong to one publisher, so that its numbers rise within a key."""
    mixed = zlib.crc32(b"%d/%d" % (plan.seed, number))
    if number % 20 == 7:
        return Happening(number, NOTED)
    kind = RETURNED if mixed % 3 == 0 else SOLD
    if number % 50 == 11:
        return Happening(number, kind, f"later-{mixed % plan.keys}", 0.05 + mixed % 1000 / 1000)
    own = mixed % max(plan.keys // plan.publishers, 1)
    return Happening(number, kind, f"key-{own * plan.publishers + number % plan.publishers}")


def in_order(key: str) -> bool:
    """Whether the numbers of this key rise: those of delayed events come when they are due."""
    return not key.startswith("later-")


def republished(plan: Plan, number: int) -> bool:
    """Whether this event is published a second time: as many as planned, evenly spread."""
    count = min(plan.faults.get(REPUBLISH, 0), plan.events)
    return (number + 1) * count // plan.events > number * count // plan.events


def poisonous(handler: str, number: int) -> bool:
    """Whether this handler never succeeds with this event."""
    return number % 499 == {"book": 100, "relay": 250}.get(handler)


def fails(handler: str, number: int, attempt: int) -> bool:
    """Whether this handler fails just now."""
    turn = {"book": 4, "tally": 8, "relay": 12, "press": 16}.get(handler)
    return poisonous(handler, number) or (number % 97 == turn and attempt <= 1 + number % 2)
