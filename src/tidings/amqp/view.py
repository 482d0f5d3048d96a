"""A view: everything that is published from now on, on queues that are gone when their connection is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from tidings.amqp import content
from tidings.amqp.channel import Channel
from tidings.amqp.connection import Connection
from tidings.amqp.naming import ALL
from tidings.amqp.wire import Wire
from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed
from tidings.fetching import first_found

WINDOW = 512


class Sight(Channel):
    """The channel of one topic; it acknowledges what is taken from it."""

    def __init__(self, wire: Wire, topic: str, exchange: str, *, come: Callable[[], None]) -> None:
        super().__init__(wire)
        self.topic = topic
        self.ready: deque[tuple[int, bytes, bytes]] = deque()
        self._exchange = exchange
        self._come = come

    async def look(self) -> None:
        """Begin."""
        queue = (await self.ask("queue_declare", queue="", exclusive=True)).method.queue
        await self.ask("queue_bind", queue=queue, exchange=self._exchange, routing_key=ALL)
        await self.ask("basic_qos", prefetch_count=WINDOW)
        await self.ask("basic_consume", queue=queue, on_message_callback=_nobody)

    def delivered(self, tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
        """See Tap."""
        self.ready.append((tag, header, body))
        self._come()

    def ended(self, why: BrokerError) -> None:
        """See Channel."""
        self._come()


class View:
    """See Line. What is published while the connection is lost is not seen."""

    def __init__(self, connection: Connection, clock: Clock, *, topics: Sequence[tuple[str, str]]) -> None:
        self._connection = connection
        self._clock = clock
        self._topics = topics
        self._sights: list[Sight] = []
        self._receipts = itertools.count(1)
        self._news = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Begin to see."""
        self._connection.users.add(self)
        for topic, exchange in self._topics:
            sight = await Sight(self._connection.wire(), topic, exchange, come=self._news.set).open()
            self._sights.append(sight)
            await sight.look()

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Line."""
        return await first_found(partial(self._next, limit), self._news, clock=self._clock, seconds=wait)

    async def _next(self, limit: int) -> Sequence[Delivery]:
        if self._closed:
            raise Closed("this view is closed")
        if any(sight.why is not None for sight in self._sights):
            await self._again()
        return self._take(limit)

    def _take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for sight in self._sights:
            last = 0
            while sight.ready and len(taken) < limit:
                last, header, body = sight.ready.popleft()
                record = content.record(sight.topic, header, body, "")
                if not record.id:
                    record = msgspec.structs.replace(record, id=self._clock.id())
                taken.append(Delivery(record, 1, next(self._receipts)))
            if last:
                sight.acknowledge(last)
        return taken

    async def _again(self) -> None:
        """Begin anew after an outage."""
        self._connection.wire()
        left, self._sights = self._sights, []
        for sight in left:
            await sight.close()
        await self.open()

    def changed(self) -> None:
        """The wire was lost, or there is another one."""
        self._news.set()

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """See Line."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        self._connection.users.discard(self)
        for sight in self._sights:
            with contextlib.suppress(BrokerError):
                await sight.close()


def _nobody(*_: Any) -> None:
    """What pika would tell of a delivery; they are cut out of the stream before."""
