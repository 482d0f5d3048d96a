"""What the engine adds to a link keeps the contract: with a store all of it, without one all but what needs one."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.brokers.embedded_link import EmbeddedLink
from tests.brokers.test_contract_sqlite import FastClock
from tidings.broker import Broker
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded.database import Database
from tidings.linked import Linked
from tidings.storeless import Storeless
from tidings.stores.sqlite import SqliteStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

LIMIT = 1 << 20
WITHOUT = contract.checks(EmbeddedLink.features)
WITH = contract.checks(SqliteBroker.features)


class Pair:
    """Two files: the log of the link, and the store."""

    def __init__(self, folder: Path, *, keeps: bool) -> None:
        self.log = Database(folder / "log.db")
        self.rows = Database(folder / "store.db") if keeps else None
        self.clock = FastClock()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[Broker]:
        link = EmbeddedLink(SqliteBroker(self.log, self.clock, lease=60.0, keep=float("inf")))
        store = Storeless() if self.rows is None else SqliteStore(self.rows)
        await store.open()
        broker = Linked(link, store, self.clock, limit=LIMIT)
        await broker.open()
        try:
            yield broker
        finally:
            await broker.close()
            await store.close()

    @contextlib.asynccontextmanager
    async def store(self, broker: Broker) -> AsyncGenerator[SqliteStore]:
        assert isinstance(broker, Linked)
        assert isinstance(broker.store, SqliteStore)
        yield broker.store

    async def silence(self, broker: Broker) -> None:
        assert isinstance(broker, Linked)
        assert isinstance(broker.link, EmbeddedLink)
        broker.link.broker._housekeeper.cancel()

    def server(self) -> Server:
        return Server(
            connect=self.connect, clock=self.clock, lease=60.0, silence=self.silence, store=self.store, delay=10.0,
            largest=LIMIT, too_large=LIMIT + 1,
        )  # fmt: skip


@pytest.mark.parametrize("check", WITHOUT, ids=lambda check: check.name)
async def test_the_contract_without_a_store(check: Check, tmp_path: Path) -> None:
    await check.run(Pair(tmp_path, keeps=False).server())


@pytest.mark.parametrize("check", WITH, ids=lambda check: check.name)
async def test_the_contract_with_a_store(check: Check, tmp_path: Path) -> None:
    await check.run(Pair(tmp_path, keeps=True).server())
