"""redis-py by hand, with hiredis: a pipeline of XADD a batch; XREADGROUP and one XACK a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis

from bench.brokers.client import BATCH, GROUP, PATIENCE, Pair


class Plain:
    """See client.Client."""

    def __init__(self, url: str, topic: str) -> None:
        self._redis = Redis.from_url(url, protocol=2)
        self._topic = topic
        self._taken: list[bytes] = []

    async def open(self) -> None:
        """Connect."""
        self._redis.ping()

    async def declare(self) -> None:
        """A stream, and its group at the beginning."""
        self._redis.xgroup_create(self._topic, GROUP, "0", mkstream=True)

    async def publish(self, pairs: Sequence[Pair]) -> None:
        """One round trip; Valkey answers when all are in its log."""
        pipeline = self._redis.pipeline(transaction=False)
        for key, body in pairs:
            pipeline.xadd(self._topic, {"key": key, "data": body})
        pipeline.execute()

    async def take(self) -> Sequence[bytes]:
        """What this group has not read."""
        wait = int(PATIENCE * 1000)
        streams: Any = self._redis.xreadgroup(GROUP, "one", {self._topic: ">"}, count=BATCH, block=wait)
        entries = streams[0][1] if streams else []
        self._taken = [id for id, _ in entries]
        return [fields[b"data"] for _, fields in entries]

    async def settle(self) -> None:
        """All ids at once."""
        self._redis.xack(self._topic, GROUP, *self._taken)

    async def close(self) -> None:
        """Disconnect."""
        self._redis.close()
