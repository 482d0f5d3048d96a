"""Where the contract is checked on a link with a store beside it, or with none."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from tidings.broker import Broker, Feature
from tidings.clock import Clock
from tidings.link import Link
from tidings.linked import Linked
from tidings.store import Store
from tidings.testing import contract
from tidings.testing.contract import Check, Server

LIMIT = 1 << 19
LEASE = 2.0


def with_a_store(features: Feature) -> list[Check]:
    """What holds on a link with these features and a store beside it."""
    return contract.checks(features | Feature.DELAY | Feature.ATOMIC)


class LinkedSite:
    """Connections of a new `link()` and `store()` each. `silence(link)` makes one say nothing more, as a kill does."""

    def __init__(
        self,
        link: Callable[[], Link],
        store: Callable[[], Store],
        silence: Callable[[Any], Awaitable[None]],
        *,
        clock: Clock | None = None,
        lease: float = LEASE,
        delay: float = 2.0,
    ) -> None:
        self.clock = clock or Clock()
        self._link = link
        self._store = store
        self._silence = silence
        self._lease = lease
        self._delay = delay

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[Broker]:
        store = self._store()
        await store.open()
        broker = Linked(self._link(), store, self.clock, limit=LIMIT)
        await broker.open()
        try:
            yield broker
        finally:
            await broker.close()
            await store.close()

    @contextlib.asynccontextmanager
    async def store(self, broker: Broker) -> AsyncGenerator[Store]:
        assert isinstance(broker, Linked)
        yield broker.store

    async def silence(self, broker: Broker) -> None:
        assert isinstance(broker, Linked)
        await self._silence(broker.link)

    def server(self) -> Server:
        return Server(
            connect=self.connect, clock=self.clock, lease=self._lease, silence=self.silence, store=self.store,
            delay=self._delay, largest=LIMIT, too_large=LIMIT + 1,
        )  # fmt: skip
