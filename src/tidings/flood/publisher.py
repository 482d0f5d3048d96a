"""The open-loop publisher: each event goes out when it is due, in a task of its own, whatever became of the others."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from tidings import dead
from tidings.broker import Broker, Record
from tidings.clock import Clock
from tidings.errors import BrokerError
from tidings.flood.notes import id_of

TICK = 0.001
"""Seconds between two looks at what is due."""
AHEAD = 0.1
"""Seconds from when it is called until the first event is due."""
NEVER = float("inf")


class Publisher:
    """Publishes records at their times, in seconds from `began` on the monotonic clock.

    `acked` has the time at which each was acknowledged, infinity for what was not; `late` how far behind its time each
    was handed over: that is the publisher's own doing, and in every latency.
    """

    def __init__(
        self, broker: Broker, clock: Clock, run: str, *, records: Sequence[Record], times: array[float]
    ) -> None:
        self.times = times
        self.acked = array("d", [NEVER]) * len(times)
        self.late = array("d", [0.0]) * len(times)
        self.refused: Counter[str] = Counter()
        self.published = 0
        self.began = 0.0
        self._broker = broker
        self._clock = clock
        self._run = run
        self._records = records

    async def run(self, progress: Callable[[int], None]) -> None:
        """Publish all, and wait until the last is acknowledged or refused."""
        clock, times = self._clock, self.times
        self.began = clock.monotonic() + AHEAD
        wall = clock.now() + AHEAD
        sent = 0
        async with asyncio.TaskGroup() as group:
            while sent < len(times):
                now = clock.monotonic() - self.began
                due = bisect_right(times, now, sent)
                for number in range(sent, due):
                    self.late[number] = now - times[number]
                    group.create_task(self._publish(number, wall))
                progress(due - sent)
                sent = due
                await clock.sleep(
                    TICK if sent == len(times) else max(times[sent] - clock.monotonic() + self.began, TICK)
                )

    async def _publish(self, number: int, wall: float) -> None:
        template = self._records[number % len(self._records)]
        record = msgspec.structs.replace(template, id=id_of(self._run, number), time=wall + self.times[number])
        try:
            await self._broker.publish([record])
        except BrokerError as error:
            self.refused[type(error).__name__] += 1
            return
        self.acked[number] = self._clock.monotonic() - self.began
        self.published += 1

    def led_to(self, letter: Record) -> bool:
        """Whether a dead letter is of an arrival, or of what came of one."""
        ids = (letter.headers.get("correlationid", ""), letter.headers.get(dead.ORIGIN, ""))
        return any(id.startswith(self._run) for id in ids)

    def topic(self, number: int) -> str:
        """Where an arrival was published."""
        return self._records[number % len(self._records)].topic
