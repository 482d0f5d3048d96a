"""A view: every message of some streams from a place on, remembered by nobody."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from functools import partial

from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import Closed
from tidings.fetching import first_found
from tidings.jetstream import content
from tidings.jetstream.connection import Connection
from tidings.jetstream.naming import Topic
from tidings.jetstream.reader import Reader
from tidings.jetstream.server import DEADLINE, Find, acked
from tidings.jetstream.wire import Wire


class ViewLine:
    """See Line, for group None. `starts` says behind which sequence of each topic it begins."""

    def __init__(self, connection: Connection, clock: Clock, *, find: Find, starts: Mapping[Topic, int]) -> None:
        self._connection = connection
        self._clock = clock
        self._find = find
        self._seen = dict(starts)
        self._made: dict[Topic, str] = {}
        self._readers: dict[Topic, Reader] = {}
        self._receipts = itertools.count(1)
        self._wire: Wire | None = None
        self._news = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Begin to read."""
        self._connection.users.add(self)
        await self._read()

    def changed(self) -> None:
        """The wire was lost, or there is another one."""
        self._news.set()

    async def _read(self) -> None:
        wire = self._connection.wire()
        for topic, start in self._seen.items():
            old, seen = self._readers.get(topic), start
            if old is not None and wire is self._wire and not (old.broken or old.silent()):
                continue
            reader = Reader(
                wire, self._clock, stream=topic.stream, subject=topic.all, news=self._news.set, ended=self._news.set
            )
            if old is not None:
                reader.messages = old.messages
                old.close()
                seen = old.messages[-1].sequence if old.messages else seen
            found = await self._find(topic.name)
            if self._made.setdefault(topic, found.created) != found.created:  # another one of its name
                self._made[topic], seen = found.created, 0
            self._readers[topic] = reader
            place = {"deliver_policy": "by_start_sequence", "opt_start_seq": min(seen, found.state.last_seq) + 1}
            acked((await wire.ask([reader.question(place)], DEADLINE))[0])
            reader.begin()
        self._wire = wire

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Line."""
        return await first_found(partial(self._next, limit), self._news, clock=self._clock, seconds=wait)

    async def _next(self, limit: int) -> Sequence[Delivery]:
        if self._closed:
            raise Closed("this view is closed")
        taken = self._take(limit)
        if not taken:
            await self._read()
        return taken

    def _take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for topic, reader in self._readers.items():
            while reader.messages and len(taken) < limit:
                message = reader.take()
                self._seen[topic] = message.sequence
                place = f"{topic.stream}:{message.sequence}"
                record = content.record(topic.name, message.headers, message.data, place)
                taken.append(Delivery(record, 1, next(self._receipts)))
        return taken

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing is remembered."""
        if self._closed:
            raise Closed("this view is closed")

    async def close(self) -> None:
        """See Line."""
        self._closed = True
        self._connection.users.discard(self)
        self._news.set()
        for reader in self._readers.values():
            reader.close()
