"""Apache Kafka keeps the contract: with a store beside it all of it, without one all but what needs one."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.brokers.linked_site import LEASE, LinkedSite, with_a_store
from tidings.brokers.kafka import KafkaLink
from tidings.clock import Clock
from tidings.dev import Kafka
from tidings.embedded.database import Database
from tidings.store import Store
from tidings.storeless import Storeless
from tidings.stores.sqlite import SqliteStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

NUMBERS = itertools.count(1)
FOREVER = float("inf")
"""Records of checks have times long past, by which Kafka would delete them."""
TWICE = {"an_id_is_kept_once", "a_publish_may_be_cancelled"}
"""Kafka keeps twice what is published twice: the inbox finds it out, where a view sees both."""


def cases(checks: list[Check]) -> list[ParameterSet]:
    marks = pytest.mark.xfail(reason="Kafka keeps an id as often as it is published", strict=True)
    return [pytest.param(check, id=check.name, marks=marks if check.name in TWICE else ()) for check in checks]


async def silence(link: KafkaLink) -> None:
    """It polls no more, so that librdkafka takes it for dead and leaves after `max.poll.interval.ms`."""
    for line in link._lines:
        line._pump.silent = True


def site(server: Kafka, store: Callable[[], Store]) -> Server:
    """A prefix of its own on the server."""
    url = f"{server.url}?prefix=contract{next(NUMBERS)}.&partitions=4&partitioner=murmur2"
    return LinkedSite(
        lambda: KafkaLink(url, Clock(), lease=LEASE, keep=FOREVER), store, silence, lease=2 * LEASE
    ).server()


@pytest.mark.slow
@pytest.mark.parametrize("check", cases(contract.checks(KafkaLink.features)))
async def test_the_contract_without_a_store(check: Check, kafka_server: Kafka) -> None:
    await check.run(site(kafka_server, Storeless))


@pytest.mark.parametrize("check", cases(with_a_store(KafkaLink.features)))
async def test_the_contract_with_a_store(check: Check, kafka_server: Kafka, tmp_path: Path) -> None:
    rows = Database(tmp_path / "store.db")
    await check.run(site(kafka_server, lambda: SqliteStore(rows)))
