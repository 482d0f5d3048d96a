"""Apache Kafka keeps the contract: with a store beside it all of it, without one all but what needs one."""

import contextlib
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tidings.broker import Broker
from tidings.brokers.kafka import KafkaLink
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.dev import Kafka
from tidings.embedded.database import Database
from tidings.linked import Linked
from tidings.storeless import Storeless
from tidings.stores.sqlite import SqliteStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

LIMIT = 1 << 19
LEASE = 2.0
FOREVER = float("inf")
"""Records of checks have times long past, by which Kafka would delete them."""
WITHOUT = contract.checks(KafkaLink.features)
WITH = contract.checks(SqliteBroker.features)
NUMBERS = itertools.count(1)
TWICE = {"an_id_is_kept_once", "a_publish_may_be_cancelled"}
"""Kafka keeps twice what is published twice: the inbox finds it out, where a view sees both."""


def cases(checks: list[Check]) -> list[ParameterSet]:
    marks = pytest.mark.xfail(reason="Kafka keeps an id as often as it is published", strict=True)
    return [pytest.param(check, id=check.name, marks=marks if check.name in TWICE else ()) for check in checks]


class Place:
    """A prefix of its own on the server, and a file for the store."""

    def __init__(self, server: Kafka, folder: Path, *, keeps: bool) -> None:
        self.url = f"{server.url}?prefix=contract{next(NUMBERS)}.&partitions=4&partitioner=murmur2"
        self.rows = Database(folder / "store.db") if keeps else None
        self.clock = Clock()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[Broker]:
        store = Storeless() if self.rows is None else SqliteStore(self.rows)
        await store.open()
        broker = Linked(KafkaLink(self.url, self.clock, lease=LEASE, keep=FOREVER), store, self.clock, limit=LIMIT)
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
        """It polls no more, so that librdkafka takes it for dead and leaves after `max.poll.interval.ms`."""
        assert isinstance(broker, Linked)
        assert isinstance(broker.link, KafkaLink)
        for line in broker.link._lines:
            line._pump.silent = True

    def server(self) -> Server:
        return Server(
            connect=self.connect, clock=self.clock, lease=2 * LEASE, silence=self.silence, store=self.store, delay=2.0,
            largest=LIMIT, too_large=LIMIT + 1,
        )  # fmt: skip


@pytest.mark.parametrize("check", cases(WITHOUT))
async def test_the_contract_without_a_store(check: Check, kafka_server: Kafka, tmp_path: Path) -> None:
    await check.run(Place(kafka_server, tmp_path, keeps=False).server())


@pytest.mark.parametrize("check", cases(WITH))
async def test_the_contract_with_a_store(check: Check, kafka_server: Kafka, tmp_path: Path) -> None:
    await check.run(Place(kafka_server, tmp_path, keeps=True).server())
