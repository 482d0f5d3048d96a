"""A private view: reads every part of its topics from a start, remembered by nobody."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Mapping, Sequence

from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import Closed
from tidings.redis.connection import Dialer
from tidings.redis.content import Reading
from tidings.redis.ears import Ears
from tidings.redis.naming import Topic
from tidings.redis.part import Entry, order

Found = tuple[bytes, Entry]


class ViewLine:
    """See Line, for group None. `starts` says behind which id of each stream of a topic it begins."""

    def __init__(self, dialer: Dialer, clock: Clock, starts: Mapping[Topic, Sequence[bytes]]) -> None:
        self._clock = clock
        self._read = {
            stream: id for topic, ids in starts.items() for stream, id in zip(topic.streams, ids, strict=True)
        }
        self._readings = {stream: Reading(topic.name) for topic in starts for stream in topic.streams}
        self._fresh: list[Found] = []
        self._buffer: deque[Found] = deque()
        self._receipts = itertools.count(1)
        self._news = asyncio.Event()
        self._ears = Ears(dialer, clock, self._heard, self._news.set)
        self._closed = False

    def _heard(self, stream: bytes, behind: bytes, entries: list[Entry]) -> None:
        if self._read[stream] == behind and entries:
            self._read[stream] = entries[-1][0]
            self._fresh += [(stream, entry) for entry in entries]

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Line. What is read at once comes in the order in which the server got it."""
        deadline = self._clock.monotonic() + wait
        while True:
            if self._closed:
                raise Closed("this view is closed")
            self._news.clear()
            if lent := self._lend(limit):
                return lent
            left = deadline - self._clock.monotonic()
            if not self._ears.listening:
                await self._ears.ask(self._read, left, limit=limit)
                if left <= 0:
                    await self._ears.wait_for_answer()
                    return self._lend(limit)
            elif left <= 0:
                return []
            await self._clock.wait(self._news, left)

    def _lend(self, limit: int) -> list[Delivery]:
        if self._fresh:
            self._buffer.extend(sorted(self._fresh, key=lambda found: order(found[1][0])))
            self._fresh = []
        lent: list[Delivery] = []
        while self._buffer and len(lent) < limit:
            stream, entry = self._buffer.popleft()
            (record,) = self._readings[stream].records([entry], stream)
            lent.append(Delivery(record, 1, next(self._receipts)))
        return lent

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing is remembered."""
        if self._closed:
            raise Closed("this view is closed")

    async def close(self) -> None:
        """See Line."""
        self._closed = True
        self._ears.shut()
        self._news.set()
