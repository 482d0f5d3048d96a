"""Time, ids and randomness: the only file of the engine that reads them, so that a test or a simulator can own them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable

NUMBERS = [f"{number:03x}" for number in range(0x1000)]


class Clock:
    """The system's clock. Seconds as float throughout."""

    def __init__(self) -> None:
        self._sequence = itertools.count(random.getrandbits(12))
        self._stamp = _stamp(0)

    now: Callable[[], float] = staticmethod(time.time)
    """Seconds since the epoch: for what is kept or shown. May jump."""

    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds since some point in the past, the same for all processes of this boot: for leases and time limits."""

    def random(self) -> float:
        """A number in [0, 1): for jitter."""
        return random.random()

    def bits(self, count: int) -> int:
        """So many random bits: for where a counter begins that must not repeat another one's numbers."""
        return random.getrandbits(count)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait until `event` is set, at most for `seconds`. Returns whether it is set."""
        if event.is_set() or seconds <= 0:
            return event.is_set()
        try:
            async with asyncio.timeout(seconds):
                return await event.wait()
        except TimeoutError:
            return event.is_set()

    async def linger(self, event: asyncio.Event, seconds: float) -> bool:
        """Like `wait`, where waiting only saves work: a clock that stands still holds nobody up."""
        return await self.wait(event, seconds)

    def id(self) -> str:
        """A new UUIDv7 (RFC 9562) as text: sorts by time, so that an index on it stays cheap.

        Ids of one millisecond share their random part and differ by a 12-bit counter (method 1 of section 6.2), and
        get another random part where that begins anew. They follow `now`: where that is set back, so are they.
        """
        milliseconds = int(self.now() * 1000)
        number = next(self._sequence) & 0xFFF
        stamp = self._stamp
        if stamp[0] != milliseconds or not number:  # a clock that stands still, or is coarse, must not repeat one
            stamp = self._stamp = _stamp(milliseconds)
        return stamp[1] + NUMBERS[number] + stamp[2]


def _stamp(milliseconds: int) -> tuple[int, str, str]:
    tail = f"{random.getrandbits(62) | 0x8000_0000_0000_0000:016x}"
    head = f"{milliseconds:012x}"
    return milliseconds, f"{head[:8]}-{head[8:]}-7", f"-{tail[:4]}-{tail[4:]}"
