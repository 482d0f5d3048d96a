"""Apache Kafka keeps the contract: with a store beside it all of it, without one all but what needs one."""

import asyncio
import itertools

import pytest
from confluent_kafka.admin import AdminClient

from tests.brokers.linked_site import ABLE, LEASE, NOTHING, SLOW_START, Beside, LinkedSite, each, offered, with_a_store
from tidings.brokers.kafka import KafkaLink
from tidings.clock import Clock
from tidings.dev import Kafka
from tidings.testing import contract
from tidings.testing.checks.server import TOPIC
from tidings.testing.contract import Check, Server

NUMBERS = itertools.count(1)
CHECKS = with_a_store(KafkaLink.features, ABLE)
FOREVER = float("inf")
"""Records of checks have times long past, by which Kafka would delete them."""


async def silence(link: KafkaLink) -> None:
    """It polls no more, so that librdkafka takes it for dead and leaves after `max.poll.interval.ms`."""
    for line in link._lines:
        line._pump.silent = True


def site(server: Kafka, beside: Beside) -> Server:
    """A prefix of its own on the server."""
    prefix = f"contract{next(NUMBERS)}."
    url = f"{server.url}?prefix={prefix}&partitions=4&partitioner=murmur2"

    def remove() -> None:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{server.port}"})
        admin.delete_topics([prefix + TOPIC])[prefix + TOPIC].result()

    site = LinkedSite(
        lambda: KafkaLink(url, Clock(), lease=LEASE, keep=FOREVER), beside.store, silence, lease=2 * LEASE
    )
    return site.server(remove=lambda: asyncio.to_thread(remove), **offered(server, url, beside))


@pytest.mark.slow
@pytest.mark.parametrize("check", contract.checks(KafkaLink.features), ids=lambda check: check.name)
async def test_the_contract_without_a_store(check: Check, kafka_server: Kafka) -> None:
    await check.run(site(kafka_server, NOTHING))


@each(CHECKS, slow=SLOW_START)
async def test_the_contract_with_a_store(check: Check, kafka_server: Kafka, rows: Beside) -> None:
    await check.run(site(kafka_server, rows))
