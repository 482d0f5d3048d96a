"""The PostgreSQL broker keeps the contract, on a real server."""

import contextlib
from collections.abc import AsyncGenerator

import pytest

from tests.brokers.linked_site import blows, each
from tidings.broker import Broker
from tidings.brokers.postgres import PostgresBroker
from tidings.clock import Clock
from tidings.config import Config
from tidings.dev import Postgres
from tidings.pg.database import Database
from tidings.stores.postgres import PostgresStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

CHECKS = contract.checks(PostgresBroker.features, ["silence", "config", "restart", "kill", "cut"])
LIMIT = 1 << 20
LEASE = 3.0


class Place:
    """A database of its own on the server."""

    def __init__(self, url: str, server: Postgres) -> None:
        self.url = url
        self._server = server
        self.clock = Clock()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[Broker]:
        database = Database(self.url, self.clock)
        broker = PostgresBroker(database, self.clock, lease=LEASE, keep=float("inf"), limit=LIMIT)
        await broker.open()
        try:
            yield broker
        finally:
            await broker.close()

    @contextlib.asynccontextmanager
    async def store(self, broker: Broker) -> AsyncGenerator[PostgresStore]:
        assert isinstance(broker, PostgresBroker)
        store = PostgresStore(broker.database, lambda: broker.writer)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def silence(self, broker: Broker) -> None:
        """What it lends and renews comes from its housekeeping: without that it is as good as dead."""
        assert isinstance(broker, PostgresBroker)
        broker.housekeeper.cancel()

    def server(self) -> Server:
        config = Config(broker=self.url, lease=LEASE, keep=float("inf"), body_limit=LIMIT)
        return Server(
            connect=self.connect, clock=self.clock, lease=LEASE, silence=self.silence, store=self.store, delay=0.7,
            largest=LIMIT, too_large=LIMIT + 1, config=config, **blows(self._server),
        )  # fmt: skip


@pytest.fixture
async def server(empty_database: str, postgres_server: Postgres) -> Server:
    return Place(empty_database, postgres_server).server()


@each(CHECKS)
async def test_the_contract(check: Check, server: Server) -> None:
    await check.run(server)
