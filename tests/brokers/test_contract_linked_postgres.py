"""What the engine adds to a link keeps the contract with PostgreSQL as the store beside it."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.brokers.embedded_link import EmbeddedLink
from tests.brokers.test_contract_sqlite import FastClock
from tidings.broker import Broker
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database as File
from tidings.linked import Linked
from tidings.pg.database import Database
from tidings.stores.postgres import PostgresStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

LIMIT = 1 << 20


class Pair:
    """A file for the log of the link, and a database for the store."""

    def __init__(self, folder: Path, url: str) -> None:
        self.log = File(folder / "log.db", durable=False)
        self.url = url
        self.clock = FastClock()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[Broker]:
        link = EmbeddedLink(SqliteBroker(self.log, self.clock, lease=60.0, keep=float("inf")))
        store = PostgresStore(Database(self.url, Clock()))
        await store.open()
        broker = Linked(link, store, self.clock, limit=LIMIT)
        await broker.open()
        try:
            yield broker
        finally:
            await broker.close()
            await store.close()

    @contextlib.asynccontextmanager
    async def store(self, broker: Broker) -> AsyncGenerator[PostgresStore]:
        assert isinstance(broker, Linked)
        assert isinstance(broker.store, PostgresStore)
        yield broker.store

    async def silence(self, broker: Broker) -> None:
        assert isinstance(broker, Linked)
        assert isinstance(broker.link, EmbeddedLink)
        broker.link.broker._housekeeper.cancel()

    def server(self) -> Server:
        return Server(
            connect=self.connect, clock=self.clock, lease=60.0, silence=self.silence, store=self.store, delay=20.0,
            largest=LIMIT, too_large=LIMIT + 1,
        )  # fmt: skip


ALL = contract.checks(SqliteBroker.features)
WITHOUT = {check.name for check in contract.checks(EmbeddedLink.features)}


@pytest.mark.parametrize("check", [each for each in ALL if each.name not in WITHOUT], ids=lambda check: check.name)
async def test_what_needs_a_store(check: Check, tmp_path: Path, empty_database: str) -> None:
    await check.run(Pair(tmp_path, empty_database).server())


@pytest.mark.slow
@pytest.mark.parametrize("check", [each for each in ALL if each.name in WITHOUT], ids=lambda check: check.name)
async def test_what_needs_none(check: Check, tmp_path: Path, empty_database: str) -> None:
    await check.run(Pair(tmp_path, empty_database).server())
