"""How fast something is consumed, from the first batch that came, which is not counted, to the last that is settled."""

from __future__ import annotations

import time

from bench.reading import Reading, Watch

TENTH = 0.1
SECOND = 1e6


class Counted:
    """What has been settled of `all`, and when."""

    def __init__(self, all: int) -> None:
        self.all = all
        self.seen = 0
        self._first = 0
        self._watch = Watch()
        self._times: list[tuple[int, float]] = []
        self._end = Reading(0.0)

    def note(self, seen: int) -> None:
        """So many are settled by now."""
        if not self._first:
            self._first, self._watch = seen, Watch()
        self.seen = seen
        self._times.append((seen, time.perf_counter()))
        if seen >= self.all:
            self._end = self._watch.rate(max(seen - self._first, 1))

    def reading(self, published: Reading) -> Reading:
        """What was read of consuming, and of publishing beside it."""
        more = {
            "consume_cpu": SECOND / max(self._end.cpu, 0.001),
            "publish": published.value,
            "publish_us": published.cpu,
            "publish_cpu": SECOND / max(published.cpu, 0.001),
        }
        return Reading(self._end.value, self._end.cpu, more)

    def slowing(self) -> float:
        """The speed of the last tenth in that of the first."""
        return self._speed(1 - TENTH, 1.0) / self._speed(0.0, TENTH)

    def _speed(self, begin: float, end: float) -> float:
        some = [moment for moment in self._times if begin * self.all <= moment[0] <= end * self.all]
        (one, began), (other, ended) = some[0], some[-1]
        return (other - one) / (ended - began)
