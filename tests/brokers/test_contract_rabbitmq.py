"""RabbitMQ keeps the contract: with a store beside it all of it, without one all but what needs one."""

import contextlib
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tidings.amqp.line import GroupLine
from tidings.broker import Broker, Feature
from tidings.brokers.rabbitmq import RabbitLink
from tidings.clock import Clock
from tidings.dev import RabbitMQ
from tidings.embedded.database import Database
from tidings.linked import Linked
from tidings.storeless import Storeless
from tidings.stores.sqlite import SqliteStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

LIMIT = 1 << 19
LEASE = 2.0
WITHOUT = contract.checks(RabbitLink.features)
WITH = contract.checks(RabbitLink.features | Feature.DELAY | Feature.ATOMIC)
NUMBERS = itertools.count(1)


class Place:
    """A prefix of its own on the server, and a file for the store."""

    def __init__(self, server: RabbitMQ, folder: Path, *, keeps: bool) -> None:
        self.url = f"{server.url}?prefix=contract{next(NUMBERS)}"
        self.rows = Database(folder / "store.db") if keeps else None
        self.clock = Clock()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[Broker]:
        store = Storeless() if self.rows is None else SqliteStore(self.rows)
        await store.open()
        broker = Linked(RabbitLink(self.url, self.clock, lease=LEASE), store, self.clock, limit=LIMIT)
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
        """As a kill does: the connection ends, no sign of life comes any more and nothing is given back."""
        assert isinstance(broker, Linked)
        assert isinstance(broker.link, RabbitLink)
        connection = broker.link.connection
        for line in list(connection.users):
            if isinstance(line, GroupLine) and line._steward is not None:
                line._steward.cancel()
        wire = connection.wire()
        connection._opened = False
        assert wire._transport is not None
        assert wire._heartbeat_checker is not None
        wire._heartbeat_checker.stop()
        wire._transport.pause_reading()

    def server(self) -> Server:
        return Server(
            connect=self.connect, clock=self.clock, lease=LEASE, silence=self.silence, store=self.store, delay=2.0,
            largest=LIMIT, too_large=LIMIT + 1,
        )  # fmt: skip


@pytest.mark.parametrize("check", WITHOUT, ids=lambda check: check.name)
async def test_the_contract_without_a_store(check: Check, rabbitmq_server: RabbitMQ, tmp_path: Path) -> None:
    await check.run(Place(rabbitmq_server, tmp_path, keeps=False).server())


@pytest.mark.parametrize("check", WITH, ids=lambda check: check.name)
async def test_the_contract_with_a_store(check: Check, rabbitmq_server: RabbitMQ, tmp_path: Path) -> None:
    await check.run(Place(rabbitmq_server, tmp_path, keeps=True).server())
