"""FastStream on NATS JetStream: a stream, pulled 500 at a time by a durable consumer; its defaults but for logging."""

from __future__ import annotations

import contextlib
from typing import Any

import nats
from faststream.nats import JStream, NatsBroker, PullSub  # type: ignore[import-not-found]

from bench.peers.faststream_work import BATCH, main


class Nats:
    """See faststream_work.Peer."""

    def __init__(self, port: str) -> None:
        self.url = f"nats://127.0.0.1:{port}"
        self.broker = NatsBroker(self.url, logger=None)
        self.where = {"subject": "orders", "stream": "orders"}

    def subscribe(self, handler: Any, *, batch: bool, acked: bool) -> None:
        """A durable consumer; what is handled is acknowledged after it in any case."""
        stream, pull = JStream("orders", declare=False), PullSub(batch_size=BATCH, batch=batch)
        self.broker.subscriber("orders", stream=stream, durable="bench", pull_sub=pull)(handler)

    async def declare(self) -> None:
        """Make an empty stream."""
        client = await nats.connect(self.url)
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await client.jetstream().delete_stream("orders")
        await client.jetstream().add_stream(name="orders", subjects=["orders"])
        await client.close()


if __name__ == "__main__":
    main(Nats)
