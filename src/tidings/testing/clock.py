"""A clock that the test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable
from typing import NamedTuple

from tidings.clock import Clock

START = 1_767_225_600.0
"""2026-01-01, midnight UTC."""
PASSES = 5
ROUNDING = 1e-6
"""What `now + (due - now)` may be off, in seconds."""


class Sleeper(NamedTuple):
    """Who waits for a point in time; `exact` where it sleeps, not where it only looks again by then."""

    due: float
    number: int
    exact: bool
    wake: Callable[[], None]


class TestClock(Clock):
    """Time stands still until `advance` moves it, in seconds. Ids are unique; `random` is always 0.5: no jitter.

    `now()` begins at `start`, 2026-01-01 by default, and `monotonic()` at the same number.
    """

    __test__ = False  # pytest: this is no test

    def __init__(self, start: float = START) -> None:
        super().__init__()
        self._now = start
        self._sleepers: list[Sleeper] = []
        self._numbers = itertools.count()
        self._ids = itertools.count()
        self._origin = random.getrandbits(44)

    def now(self) -> float:
        """See Clock.now."""
        return self._now

    def monotonic(self) -> float:
        """See Clock.monotonic."""
        return self._now

    def random(self) -> float:
        """The middle."""
        return 0.5

    def id(self) -> str:
        """A new UUIDv7: the time, a counter, and what tells this clock from others."""
        counter = next(self._ids) & 0x3FFF_FFFF
        head, tail = f"{int(self._now * 1000):012x}", f"{(counter & 0x3_FFFF) << 44 | self._origin:016x}"
        variant = f"{int(tail[0], 16) & 0x3 | 0x8:x}{tail[1:]}"
        return f"{head[:8]}-{head[8:]}-7{counter >> 18:03x}-{variant[:4]}-{variant[4:]}"

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by `seconds`; for 0, let others have their turn."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._wait(asyncio.Event(), seconds, exact=True)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """See Clock.wait."""
        if event.is_set() or seconds <= 0:
            return event.is_set()
        return await self._wait(event, seconds, exact=False)

    async def linger(self, event: asyncio.Event, seconds: float) -> bool:
        """Does not: time stands still."""
        return event.is_set()

    async def _wait(self, event: asyncio.Event, seconds: float, *, exact: bool) -> bool:
        try:
            async with asyncio.timeout(None) as limit:
                sleeper = Sleeper(self._now + seconds, next(self._numbers), exact, lambda: limit.reschedule(0.0))
                heapq.heappush(self._sleepers, sleeper)
                try:
                    return await event.wait()
                finally:
                    self._dequeue(sleeper)
        except TimeoutError:
            return event.is_set()

    def _dequeue(self, sleeper: Sleeper) -> None:
        if sleeper in self._sleepers:
            self._sleepers.remove(sleeper)
            heapq.heapify(self._sleepers)

    @property
    def due(self) -> float | None:
        """When the next one wakes, on this clock; None where nobody sleeps or waits."""
        return self._sleepers[0].due if self._sleepers else None

    @property
    def alarm(self) -> float | None:
        """When the next `sleep` ends; who is in `wait` only looks again by then, and may as well do so later."""
        return min((sleeper.due for sleeper in self._sleepers if sleeper.exact), default=None)

    async def advance(self, seconds: float) -> None:
        """Move the clock and wake sleepers in order, each at its time; each gets some turns of the loop to react."""
        until = self._now + seconds
        while self._sleepers and self._sleepers[0].due <= until:
            self.move(max(self._sleepers[0].due, self._now))
            for _ in range(PASSES):
                await asyncio.sleep(0)
        self.move(until)

    def move(self, to: float) -> None:
        """Set the time forward to `to` and wake whoever is due by then, without letting them run in between."""
        self._now = max(to, self._now)
        while self._sleepers and self._sleepers[0].due <= self._now + ROUNDING:
            heapq.heappop(self._sleepers).wake()
