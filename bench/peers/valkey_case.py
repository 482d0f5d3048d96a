"""FastStream on Valkey streams: a consumer group that reads 500 at a time; its defaults but for logging."""

from __future__ import annotations

from typing import Any

from faststream.redis import RedisBroker, StreamSub  # type: ignore[import-not-found]
from redis.asyncio import Redis

from bench.peers.faststream_work import BATCH, main


class Valkey:
    """See faststream_work.Peer."""

    def __init__(self, port: str) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self.broker = RedisBroker(self.url, logger=None)
        self.where = {"stream": "orders"}

    def subscribe(self, handler: Any, *, batch: bool, acked: bool) -> None:
        """A member of a group; what is handled is acknowledged after it in any case."""
        stream = StreamSub("orders", group="bench", consumer="one", max_records=BATCH, batch=batch)
        self.broker.subscriber(stream=stream)(handler)

    async def declare(self) -> None:
        """Make an empty stream, and its group."""
        client = Redis.from_url(self.url)
        await client.delete("orders")
        await client.xgroup_create("orders", "bench", "0", mkstream=True)
        await client.aclose()


if __name__ == "__main__":
    main(Valkey)
