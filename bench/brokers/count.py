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
        """The speed of the last tenth in that of the first; 1 where too little came to tell them apart."""
        first = self._when(TENTH) - self._when(0.0)
        last = self._when(1.0) - self._when(1 - TENTH)
        return first / last if last > 0 else 1.0

    def _when(self, share: float) -> float:
        """When this share of what came after the first batch was settled, between the moments that were noted."""
        wanted = self._first + share * (self.seen - self._first)
        after = next(index for index, (seen, _) in enumerate(self._times) if seen >= wanted)
        (seen, when), (before, since) = self._times[after], self._times[max(after - 1, 0)]
        return when if seen == before else since + (when - since) * (wanted - before) / (seen - before)
