"""The PostgreSQL broker keeps the contract, on a real server."""

from contextlib import AbstractAsyncContextManager

import pytest

from tests.brokers.linked_site import blows, each
from tests.lifetime import kept_open
from tidings.broker import Broker
from tidings.brokers.postgres import PostgresBroker
from tidings.clock import Clock
from tidings.config import Config
from tidings.dev import Postgres
from tidings.pg.database import Database
from tidings.store import Store
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

    def connect(self) -> AbstractAsyncContextManager[Broker]:
        database = Database(self.url, self.clock)
        return kept_open(PostgresBroker(database, self.clock, lease=LEASE, keep=float("inf"), limit=LIMIT))

    def store(self, broker: Broker) -> AbstractAsyncContextManager[Store]:
        assert isinstance(broker, PostgresBroker)
        return kept_open(PostgresStore(broker.database, lambda: broker.writer))

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
