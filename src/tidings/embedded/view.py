"""A private view of a log, in a file or in PostgreSQL: every record from its start, nothing remembered or settled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import Closed
from tidings.store import Unit

Read = Callable[[int, int, int], Awaitable[Sequence[Any]]]


class Host(Protocol):
    """What a view needs of its broker."""

    clock: Clock

    def check(self) -> None:
        """Raises Closed where the broker is not open, or its housekeeping has died."""
        ...

    def deliveries(self, topic: str, rows: Sequence[Any]) -> Sequence[Delivery]:
        """Rows of the log as what is lent."""
        ...

    def forget(self, reader: Any) -> None:
        """The view is closed."""
        ...


class View:
    """A private view: every record from its start, nothing remembered, nothing to settle.

    `read` gives the rows of a topic after a position, at most so many. Who waits for more looks again after `again`
    seconds even where nobody called: a call may be lost.
    """

    def __init__(
        self, broker: Host, topics: Mapping[str, int], cursors: dict[str, int], read: Read, again: float = math.inf
    ) -> None:
        self.wake = asyncio.Event()
        self.waiting = False
        self.topics = {topics[name] for name in cursors}
        self._broker = broker
        self._read = read
        self._again = again
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
                rows = await self._read(self._ids[name], cursor, limit)
                if rows:
                    del self._cursors[name]  # to the end, so that every topic gets its turn
                    self._cursors[name] = rows[-1][0]
                    return self._broker.deliveries(name, rows)
            left = deadline - self._broker.clock.monotonic()
            self.waiting = left > 0
            if not self.waiting:
                return []
            await self._broker.clock.wait(self.wake, min(left, self._again))
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
