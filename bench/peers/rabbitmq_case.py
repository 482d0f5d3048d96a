"""FastStream on RabbitMQ: a quorum queue, confirms; its defaults but for logging."""

from __future__ import annotations

import os
from typing import Any

from faststream.rabbit import QueueType, RabbitBroker, RabbitQueue  # type: ignore[import-not-found]

from bench.peers.faststream_work import main


class RabbitMQ:
    """See faststream_work.Peer. FastStream has no batches here."""

    def __init__(self, port: str) -> None:
        self.broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{port}/", logger=None)
        self.queue = RabbitQueue(f"orders{os.getpid()}", queue_type=QueueType.QUORUM, durable=True)
        self.where = {"queue": self.queue.name, "persist": True}

    def subscribe(self, handler: Any, *, batch: bool, acked: bool) -> None:
        """The queue; what is handled is acknowledged after it in any case."""
        self.broker.subscriber(self.queue)(handler)

    async def declare(self) -> None:
        """Make the queue."""
        await self.broker.connect()
        await self.broker.declare_queue(self.queue)


if __name__ == "__main__":
    main(RabbitMQ)
