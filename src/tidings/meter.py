"""What a handler has done so far, in plain integers; read out on scrape, never locked, never formatted in between."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from operator import sub

SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)


class Histogram:
    """Counts of durations in seconds by upper bound; the last count is what is beyond all bounds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Count durations, which often fall into one bucket."""
        if not seconds:
            return
        low, high = bisect_left(SECONDS, min(seconds)), bisect_left(SECONDS, max(seconds))
        if low == high:
            self.counts[low] += len(seconds)
            self.sum += sum(seconds)
        else:
            ordered = sorted(seconds)
            ends = [0, *(bisect_right(ordered, most) for most in SECONDS[low:high]), len(ordered)]
            for bucket, (begin, end) in enumerate(pairwise(ends), low):
                self.counts[bucket] += end - begin
            self.sum += sum(ordered)

    def observe_steps(self, times: Sequence[float]) -> None:
        """Count the durations between points in time."""
        self.observe_all(list(map(sub, times[1:], times)))

    @property
    def total(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The upper bound of the bucket in which this share of the observations ends; None without any."""
        wanted, seen = share * self.total, 0
        if not wanted:
            return None
        for bound, count in zip((*SECONDS, float("inf")), self.counts, strict=True):
            seen += count
            if seen >= wanted:
                return bound
        return None


class Meter:
    """The figures of one handler."""

    def __init__(self) -> None:
        self.handled = 0
        self.skipped = 0
        self.retried = 0
        self.failed: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self.published: Counter[str] = Counter()
        self.handling = Histogram()
        self.latency = Histogram()
        self.in_flight = 0
        self.progress = 0.0
        """When something was last settled, on the monotonic clock."""
