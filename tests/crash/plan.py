"""What a run does: how many events of which kind, and which processes die where."""

from __future__ import annotations

import random
from collections import Counter

import msgspec

WORKER, PUBLISHER, FROZEN, STOPPED = "worker", "publisher", "frozen", "stopped"
"""Kinds of faults at a random moment: a worker or publisher is killed, a worker is frozen for longer than its lease,
a worker is told to stop and has to end in order."""

# Places of tidings.failpoint at which a worker or publisher dies, and the latest passage at which it does: low enough
# to be reached soon after a start. The rare ones wait for what other processes do, so one worker is kept for them.
RARE = {"burying": 1, "giving_up": 1, "moving_due": 1}
FREQUENT = {
    "claimed": 7,
    "committed": 100,
    "committing": 100,
    "draining": 1,
    "handled": 100,
    "held_back": 10,
    "in_handler": 200,
    "lent": 50,
    "lent_again": 10,
    "settling": 50,
}
PUBLISHING = {"published": 200, "publishing": 200}

SOLD, RETURNED, NOTED = "sold", "returned", "noted"
"""Kinds of events."""


class Plan(msgspec.Struct, frozen=True):
    """One run. `seconds` is how long it may take; `bug` is what its handlers do wrong on purpose, for our own tests."""

    events: int = 10_000
    keys: int = 64
    workers: int = 3
    publishers: int = 2
    kills: int = 20
    seed: int = 0
    seconds: float = 60.0
    bug: str = ""

    def faults(self) -> Counter[str]:
        """How often each kind has to happen: the kills, and with them one freeze and one orderly stop."""
        places = [*RARE, *FREQUENT, *PUBLISHING]
        random.Random(self.seed).shuffle(places)
        kinds = [WORKER, PUBLISHER, *places, WORKER, PUBLISHER, WORKER]
        kills = Counter((kinds * (self.kills // len(kinds) + 1))[: self.kills])
        return kills + Counter([FROZEN, STOPPED] if self.kills else [])


class Event(msgspec.Struct, frozen=True):
    """What number `number` is: something sold or returned under a key, or a note without one; delayed by seconds."""

    number: int
    kind: str
    key: str = ""
    delay: float | None = None


def event(plan: Plan, number: int) -> Event:
    """The keys of an event belong to one publisher, so that its numbers rise within a key."""
    mixed = random.Random(f"{plan.seed}/{number}").getrandbits(32)
    if number % 20 == 7:
        return Event(number, NOTED)
    kind = RETURNED if mixed % 3 == 0 else SOLD
    if number % 50 == 11:
        return Event(number, kind, f"later-{mixed % plan.keys}", 0.05 + mixed % 1000 / 1000)
    own = mixed % max(plan.keys // plan.publishers, 1)
    return Event(number, kind, f"key-{own * plan.publishers + number % plan.publishers}")


def in_order(key: str) -> bool:
    """Whether the numbers of this key rise: those of delayed events come when they are due."""
    return not key.startswith("later-")


def poisonous(handler: str, number: int) -> bool:
    """Whether this handler never succeeds with this event."""
    return number % 499 == {"book": 100, "relay": 250}.get(handler)


def fails(handler: str, number: int, attempt: int) -> bool:
    """Whether this handler fails just now."""
    turn = {"book": 4, "tally": 8, "relay": 12, "press": 16}.get(handler)
    return poisonous(handler, number) or (number % 97 == turn and attempt <= 1 + number % 2)
