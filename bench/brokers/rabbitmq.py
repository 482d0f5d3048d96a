"""pika by hand: its asyncio connection publishes with confirms, its blocking one consumes; one ack for many."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pika import BasicProperties, BlockingConnection, URLParameters
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.spec import Basic

from bench.brokers.client import BATCH, PATIENCE, Pair

KEPT = BasicProperties(content_type="application/json", delivery_mode=2)  # type: ignore[no-untyped-call]
QUORUM = {"x-queue-type": "quorum"}


class Plain:
    """See client.Client."""

    def __init__(self, url: str, topic: str) -> None:
        self._parameters = URLParameters(url)
        self._topic = topic
        self._publishing: Publishing | None = None
        self._reading: BlockingConnection | None = None
        self._channel: BlockingChannel
        self._came: list[bytes] = []
        self._tag = 0

    async def open(self) -> None:
        """Nothing: publishing and consuming have a connection each, when they begin."""

    async def declare(self) -> None:
        """A quorum queue."""
        connection = BlockingConnection(self._parameters)
        connection.channel().queue_declare(self._topic, durable=True, arguments=QUORUM)
        connection.close()

    async def publish(self, pairs: Sequence[Pair]) -> None:
        """Send all, then wait until they are confirmed."""
        if self._publishing is None:
            self._publishing = Publishing(self._parameters)
        await self._publishing.opened
        await self._publishing.publish(self._topic, pairs)

    async def take(self) -> Sequence[bytes]:
        """What has been pushed since."""
        if self._reading is None:
            self._reading = BlockingConnection(self._parameters)
            self._channel = self._reading.channel()
            self._channel.basic_qos(prefetch_count=BATCH)
            self._channel.basic_consume(self._topic, self._receive)
        if not self._came:
            self._reading.process_data_events(PATIENCE)
        bodies, self._came = self._came, []
        return bodies

    def _receive(self, _: BlockingChannel, method: Basic.Deliver, __: BasicProperties, body: bytes) -> None:
        self._tag = method.delivery_tag
        self._came.append(body)

    async def settle(self) -> None:
        """Up to the last one."""
        self._channel.basic_ack(self._tag, multiple=True)

    async def close(self) -> None:
        """Disconnect."""
        if self._reading is not None:
            self._reading.close()
        if self._publishing is not None:
            self._publishing.close()


class Publishing:
    """A channel in confirm mode. `opened` is done when it can be used."""

    def __init__(self, parameters: URLParameters) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._out: dict[int, None] = {}
        self._sent = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._channel: Channel
        self._connection = AsyncioConnection(parameters, self._connected, self._failed)

    def _connected(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._ready)

    def _failed(self, _: Any, error: BaseException) -> None:
        self.opened.set_exception(error)

    def _ready(self, channel: Channel) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirmed, callback=lambda _: self.opened.set_result(None))

    async def publish(self, queue: str, pairs: Sequence[Pair]) -> None:
        """Send all, then wait until each one before the last is confirmed too."""
        for _, body in pairs:
            self._channel.basic_publish("", queue, body, KEPT)
            self._sent += 1
            self._out[self._sent] = None
        all_told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._sent, all_told))
        await all_told

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        if isinstance(method, Basic.Nack):
            raise RuntimeError("RabbitMQ did not take it")
        if method.multiple:
            while self._out and (first := next(iter(self._out))) <= method.delivery_tag:
                del self._out[first]
        else:
            del self._out[method.delivery_tag]
        oldest = next(iter(self._out), self._sent + 1)
        while self._waiting and self._waiting[0][0] < oldest:
            self._waiting.pop(0)[1].set_result(None)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
