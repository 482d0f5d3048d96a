"""Which faults are still to happen, which have, and at what place or moment the next one does."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tidings.chaos.plan import AT_RANDOM, PUBLISHER, REPUBLISH, WORKER, Place, Plan

EVENTS_A_FAULT = 500
"""For so many events between two faults the passages are meant at which a process dies."""
SOONEST = 0.1
AHEAD = 0.8
"""The share of what may have been published that has to be, before the next fault."""
RESERVE = 0.1
"""The share of the events that waits until every planned fault has happened."""


class Fault(NamedTuple):
    """Something happened to a process. `at` is on the monotonic clock."""

    kind: str
    pid: int
    at: float


class Faults:
    """The faults of one run. Publishing twice is not among them: the publishers do that by themselves."""

    def __init__(self, plan: Plan, places: Mapping[str, Place]) -> None:
        self.chance = random.Random(plan.seed)  # noqa: S311 - a seed repeats it
        self.missing = plan.planned(places)
        del self.missing[REPUBLISH]
        self.planned = self.missing.total()
        self.fired: list[Fault] = []
        self.at_random = self._shuffled(AT_RANDOM)
        self._places = places
        self._alone = plan.workers == 1
        self._events = plan.events
        self._more = 0.0
        self._publishers = plan.publishers
        self._scale = plan.events / max(self.planned, 1) / EVENTS_A_FAULT
        self._half_a_fault = plan.events / (self.planned + 1) / 2
        self._rare = self._shuffled(name for name, place in places.items() if place.rare)
        self.publishing = self._shuffled(name for name, place in places.items() if place.role == PUBLISHER)
        """The places at which a publisher is still to die."""
        self._publishing_planned = len(self.publishing)
        self._frequent = self._shuffled(
            name for name, place in places.items() if place.role == WORKER and not place.rare
        )

    def _shuffled(self, kinds: Iterable[str]) -> deque[str]:
        wanted = set(kinds)
        planned = [kind for kind in self.missing.elements() if kind in wanted]
        self.chance.shuffle(planned)
        return deque(planned)

    def places(self, role: str, index: int, busy: Iterable[str | None]) -> deque[str]:
        """Where this process can die next, the first of them first; `busy` are the places of the workers.

        The first worker is kept for the rare places; of the others, one at a time dies at a frequent one.
        """
        if role == PUBLISHER:
            return self.publishing
        if (index == 0 and self._rare) or self._alone:
            return self._rare or self._frequent
        frequent = any(place and not self._places[place].rare for place in busy)
        return deque() if frequent else self._frequent

    def passage(self, place: str | None) -> int:
        """At which passage of this place; for a publisher one that it comes to with what one fault lets through.

        Where a fault has waited for events, it is the first: not so many are left.
        """
        if place is None or self._more:
            return 1
        of = self._places[place]
        latest = (
            of.passage * min(max(self._scale, SOONEST), 1.0)
            if of.role == WORKER
            else self._half_a_fault / self._publishers
        )
        return self.chance.randint(1, max(round(latest), 1))

    def put_back(self, place: str) -> None:
        """The process has died of something else."""
        of = self._places[place]
        (self.publishing if of.role == PUBLISHER else self._rare if of.rare else self._frequent).append(place)

    def happened(self, kind: str, pid: int) -> None:
        """One more; if nobody planned it, one less is to come at random."""
        self.fired.append(Fault(kind, pid, time.monotonic()))
        self.missing = self.missing - Counter([kind])
        if self.at_random.count(kind) > self.missing[kind]:
            self.at_random.remove(kind)

    @property
    def allowed(self) -> int:
        """How many events may be published by now: each fault lets more of them through."""
        if not self.missing:
            return self._events
        share = (self.planned - self.missing.total() + 1) / (self.planned + 1)
        return min(int(self._events * min(share, 1 - RESERVE) + self._more), self._events)

    def let_more_through(self) -> None:
        """Some faults wait for events to come. Few at a time: a rare one may need many deaths of others."""
        self._more += max(self._half_a_fault / 4, 1)

    def due(self, published: int) -> bool:
        """Whether so much has been published that another fault may come; the first may come at once."""
        return published >= AHEAD * self.allowed or not self.fired

    def publisher_due(self, published: int) -> bool:
        """Whether another publisher may die at a named place: they pass theirs so often that all would at the start."""
        return (
            self._publishing_planned - len(self.publishing) <= 1 + self._publishing_planned * published / self._events
        )
