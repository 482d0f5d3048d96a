"""What may go wrong in a simulated world, and how often."""

from __future__ import annotations

import random

import msgspec

from tidings.errors import ConfigError
from tidings.testing.sim.tape import STEP

KINDS = {
    "order": "tasks that are ready run in another order than the usual one",
    "crash": "a process is killed: at any moment, or at a place where it hurts, and started again",
    "stop": "a process stands still for longer than its lease, and goes on as if nothing had been",
    "leave": "a process is asked to end, drains and is started again",
    "clock": "the clock of a process jumps by up to a day",
    "slow_disk": "a commit takes seconds",
    "full_disk": "a commit fails because no space is left",
    "locked": "a commit fails because another writer holds the database",
    "lost_reply": "a commit is done, and whoever asked for it is told that it failed",
    "wakeup": "a process is not told, or late, that there is more to read",
    "handler": "a handler raises, before or after it has done its work",
}
"""Every kind, and what it is."""

RATES = {
    STEP: ("order", 0.02),
    "nemesis": ("crash", 0.25),
    "place": ("crash", 0.002),
    "stop": ("stop", 0.1),
    "leave": ("leave", 0.1),
    "clock": ("clock", 0.1),
    "slow_disk": ("slow_disk", 0.03),
    "full_disk": ("full_disk", 0.03),
    "locked": ("locked", 0.03),
    "lost_reply": ("lost_reply", 0.03),
    "wakeup": ("wakeup", 0.1),
    "handler": ("handler", 0.05),
}
"""Labels on the tape: the kind that each belongs to, and how often it happens of those times when it could."""


class Faults(msgspec.Struct, frozen=True):
    """Which kinds of faults there may be (see KINDS; all by default), and how many processes may die of them.

    `crashes`: how often processes are killed in a run, at most. An event that has killed its worker too often is buried
    unheard, so more of them lead to dead letters.
    """

    kinds: frozenset[str] = frozenset(KINDS)
    crashes: int = 2

    def __post_init__(self) -> None:
        unknown = sorted(self.kinds - KINDS.keys())
        if unknown:
            raise ConfigError(f"unknown fault {unknown[0]!r}; there are: {', '.join(KINDS)}")

    @classmethod
    def only(cls, *kinds: str) -> Faults:
        """These kinds and no others. Raises ConfigError for an unknown one."""
        return cls(frozenset(kinds))

    @classmethod
    def none(cls) -> Faults:
        """Nothing goes wrong."""
        return cls(frozenset())

    def swarm(self, seed: int) -> dict[str, float]:
        """The rates of one run: some of the kinds, each more or less often than usual."""
        chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        wanted = {kind for kind in sorted(self.kinds) if chance.random() < 0.5}
        return {label: rate * chance.choice((0.3, 1.0, 3.0)) for label, (kind, rate) in RATES.items() if kind in wanted}
