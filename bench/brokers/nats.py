"""nats-py by hand: publishes in flight together; pulls that overlap, one acknowledgement for all of a batch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import nats
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from bench.brokers.client import BATCH, GROUP, PATIENCE, Pair

INBOX = "bench.inbox"
PULL = {"batch": BATCH, "expires": 60_000_000_000}


class Plain:
    """See client.Client."""

    def __init__(self, url: str, topic: str) -> None:
        self._url, self._topic = url, topic
        self._came: list[Msg] = []
        self._taken: Msg | None = None
        self._heard = asyncio.Event()
        self._asked = 0
        self._connection: Connection
        self._jetstream: JetStreamContext

    async def open(self) -> None:
        """Connect."""
        self._connection = await nats.connect(self._url)
        self._jetstream = self._connection.jetstream(publish_async_max_pending=4 * BATCH)

    async def declare(self) -> None:
        """A stream on disk with a durable consumer that is pulled, and acknowledged up to a message."""
        await self._jetstream.add_stream(name=self._topic, subjects=[self._topic])
        config = ConsumerConfig(durable_name=GROUP, ack_policy=AckPolicy.ALL, max_ack_pending=20 * BATCH)
        await self._jetstream.add_consumer(self._topic, config)

    async def publish(self, pairs: Sequence[Pair]) -> None:
        """Send all, then wait for all acknowledgements."""
        send, topic = self._jetstream.publish_async, self._topic
        await asyncio.gather(*[await send(topic, body) for _, body in pairs])

    async def take(self) -> Sequence[bytes]:
        """What has been pushed since; two pulls are on their way."""
        if not self._asked:
            await self._connection.subscribe(INBOX, cb=self._receive, pending_msgs_limit=-1, pending_bytes_limit=-1)
        while self._asked <= BATCH:
            self._asked += BATCH
            where = f"$JS.API.CONSUMER.MSG.NEXT.{self._topic}.{GROUP}"
            await self._connection.publish(where, json.dumps(PULL).encode(), INBOX)
        if not self._came:
            self._heard.clear()
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._heard.wait()
            except TimeoutError:
                return []
        messages, self._came = self._came, []
        self._asked -= len(messages)
        self._taken = messages[-1]
        return [message.data for message in messages]

    async def _receive(self, message: Msg) -> None:
        if message.reply:  # anything else is a word about a pull
            self._came.append(message)
            self._heard.set()

    async def settle(self) -> None:
        """The last one stands for all before it."""
        if self._taken is not None:
            await self._taken.ack()

    async def close(self) -> None:
        """Send what is left, and disconnect."""
        await self._connection.flush()
        await self._connection.close()
