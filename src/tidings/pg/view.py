"""A private view of a PostgreSQL log: every record from its start, nothing remembered, nothing to settle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from tidings.broker import Delivery
from tidings.errors import Closed
from tidings.pg.lending import LOOK, LOOK_ON, Host
from tidings.store import Unit


class View:
    """A private view: every record from its start, nothing remembered, nothing to settle."""

    def __init__(self, broker: Host, topics: Mapping[str, int], cursors: dict[str, int]) -> None:
        self.wake = asyncio.Event()
        self.topics = {topics[name] for name in cursors}
        self._broker = broker
        self._ids = topics
        self._cursors = cursors
        self._closed = False

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Subscription.fetch."""
        deadline = self._broker.clock.monotonic() + wait
        while True:
            if self._closed:
                raise Closed("the view is closed")
            self._broker.check()
            self.wake.clear()
            for name, cursor in list(self._cursors.items()):
                rows = await self._broker.read(LOOK_ON, {"topic": self._ids[name], "after": cursor, "limit": limit})
                if rows:
                    del self._cursors[name]  # to the end, so that every topic gets its turn
                    self._cursors[name] = rows[-1][0]
                    return self._broker.deliveries(name, rows)
            left = deadline - self._broker.clock.monotonic()
            if left <= 0:
                return []
            await self._broker.clock.wait(self.wake, min(left, LOOK))

    def hear(self, topics: AbstractSet[int] | None = None) -> None:
        """These topics have grown, or perhaps all."""
        self.wake.set()

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """Nothing to do."""

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Nothing to do: a view reads each record once."""

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """See Subscription.close."""
        self._closed = True
        self._broker.forget(self)
        self.wake.set()
