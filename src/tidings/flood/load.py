"""When events arrive: an open-loop load, planned before it begins and so deaf to how fast it is dealt with.

In a closed loop the next request waits for the last answer, so a system that stalls is asked less, and the worst
moments are hardly measured ("coordinated omission": Gil Tene, "How NOT to Measure Latency", 2013, and the README of
wrk2). Here each event has an intended time of arrival, and every latency counts from that.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterator, Sequence

import msgspec

ARRIVALS = ("constant", "ramp", "spike", "poisson", "replay")
SPIKE = (0.4, 0.6)
"""Where in the run a spike begins and ends."""
PEAK = 5.0
"""How many times the rate a spike is, where nothing is said."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What load is wanted. Rates in events a second.

    `constant`: evenly. `ramp`: evenly more, from `first` up to `rate`. `spike`: `rate`, but `peak` in the middle fifth.
    `poisson`: as independent people do, `rate` on average; drawn by `seed`. `replay`: as recorded, `speed` times as
    fast, for `seconds` of the run at most.
    """

    arrival: str = "constant"
    rate: float = 100.0
    seconds: float = 30.0
    first: float = 0.0
    peak: float | None = None
    seed: int = 1
    speed: float = 1.0

    @property
    def most(self) -> float:
        """How many events are to be expected at most; of a replay nothing is known."""
        if self.arrival == "replay":
            return 0.0
        return self.seconds * max(self.rate, self.first, self._peak if self.arrival == "spike" else 0.0)

    @property
    def _peak(self) -> float:
        return PEAK * self.rate if self.peak is None else self.peak

    def times(self, recorded: Sequence[float] = ()) -> array[float]:
        """When each event arrives, in seconds from the start, in order; `recorded` are the times of a recording."""
        if self.arrival == "replay":
            return array("d", self._replay(recorded))
        plan: dict[str, Callable[[], Iterator[float]]] = {
            "constant": self._constant,
            "ramp": self._ramp,
            "spike": self._spike,
            "poisson": self._poisson,
        }
        return array("d", plan[self.arrival]())

    def _constant(self) -> Iterator[float]:
        return self._steady(0.0, self.seconds, self.rate)

    def _steady(self, begin: float, end: float, rate: float) -> Iterator[float]:
        return (begin + index / rate for index in range(math.ceil((end - begin) * rate - 1e-9)))

    def _ramp(self) -> Iterator[float]:
        """At t seconds, first * t + steeper * t * t / 2 have arrived: solved for t."""
        steeper = (self.rate - self.first) / self.seconds
        if not steeper:
            yield from self._constant()
            return
        for index in range(int((self.first + self.rate) / 2 * self.seconds)):
            yield (math.sqrt(self.first**2 + 2 * steeper * index) - self.first) / steeper

    @property
    def spike(self) -> tuple[float, float] | None:
        """When a spike begins and ends; None without one."""
        return (SPIKE[0] * self.seconds, SPIKE[1] * self.seconds) if self.arrival == "spike" else None

    def _spike(self) -> Iterator[float]:
        begin, end = self.spike or (0.0, 0.0)
        yield from self._steady(0.0, begin, self.rate)
        yield from self._steady(begin, end, self._peak)
        yield from self._steady(end, self.seconds, self.rate)

    def _poisson(self) -> Iterator[float]:
        draw = random.Random(self.seed).expovariate  # noqa: S311 - the same arrivals for the same seed
        at = draw(self.rate)
        while at < self.seconds:
            yield at
            at += draw(self.rate)

    def _replay(self, recorded: Sequence[float]) -> Iterator[float]:
        begin = min(recorded, default=0.0)
        arrivals = sorted((at - begin) / self.speed for at in recorded)
        return (at for at in arrivals if at <= self.seconds)
