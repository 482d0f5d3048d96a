"""A private view of the embedded log: every record from its start, nothing remembered, nothing to settle."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from tidings.broker import Delivery
from tidings.embedded.feed import FETCH, Host, some
from tidings.errors import Closed
from tidings.store import Unit


class View:
    """A private view: every record from its start, nothing remembered, nothing to settle."""

    def __init__(self, broker: Host, topics: Mapping[str, int], cursors: dict[str, int]) -> None:
        self.wake = asyncio.Event()
        self.waiting = False
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
            for name, cursor in self._cursors.items():
                rows = self._broker.read(FETCH.format(parts=""), (self._ids[name], cursor, limit), some)
                if rows:
                    del self._cursors[name]  # to the end, so that every topic gets its turn
                    self._cursors[name] = rows[-1][0]
                    return self._broker.deliveries(name, rows)
            left = deadline - self._broker.clock.monotonic()
            self.waiting = left > 0
            if not self.waiting or not await self._broker.clock.wait(self.wake, left):
                return []
            self.waiting = False

    def hear(self, topics: Collection[int] | None = None) -> None:
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
