"""RabbitMQ keeps the contract: with a store beside it all of it, without one all but what needs one."""

import asyncio
import itertools

import pika
import pytest

from tests.brokers.linked_site import ABLE, LEASE, NOTHING, SLOW_START, Beside, LinkedSite, each, offered, with_a_store
from tidings.amqp.line import GroupLine
from tidings.brokers.rabbitmq import RabbitLink
from tidings.clock import Clock
from tidings.dev import RabbitMQ
from tidings.testing import contract
from tidings.testing.checks.server import GROUP, TOPIC
from tidings.testing.contract import Check, Server

NUMBERS = itertools.count(1)
ON_DISK = 2.0
"""Seconds: a queue that is younger may be forgotten when RabbitMQ is killed, with all that was confirmed."""
CHECKS = with_a_store(RabbitLink.features, ABLE)


async def silence(link: RabbitLink) -> None:
    """As a kill does: the connection ends, no sign of life comes any more and nothing is given back."""
    connection = link.connection
    for line in list(connection.users):
        if isinstance(line, GroupLine):
            line._steward.stop()
    wire = connection.wire()
    connection._opened = False
    assert wire._transport is not None
    assert wire._heartbeat_checker is not None
    wire._heartbeat_checker.stop()
    wire._transport.pause_reading()


def site(server: RabbitMQ, beside: Beside) -> Server:
    """A prefix of its own on the server."""
    url = f"{server.url}?prefix=contract{next(NUMBERS)}"
    links: list[RabbitLink] = []

    def link() -> RabbitLink:
        links.append(RabbitLink(url, Clock(), lease=LEASE))
        return links[-1]

    def remove() -> None:
        place = links[0]._place(TOPIC, GROUP)
        with pika.BlockingConnection(pika.URLParameters(server.url)) as connection:
            channel = connection.channel()
            for part in range(place.parts):
                channel.queue_delete(place.queue(part))

    given = offered(server, url, beside)

    async def kill() -> None:
        await asyncio.sleep(ON_DISK)
        await given["kill"]()

    more = {"remove": lambda: asyncio.to_thread(remove), **given, "kill": kill}
    return LinkedSite(link, beside.store, silence, lease=LEASE).server(**more)


@pytest.mark.slow
@pytest.mark.parametrize("check", contract.checks(RabbitLink.features), ids=lambda check: check.name)
async def test_the_contract_without_a_store(check: Check, rabbitmq_server: RabbitMQ) -> None:
    await check.run(site(rabbitmq_server, NOTHING))


@each(CHECKS, slow=SLOW_START)
async def test_the_contract_with_a_store(check: Check, rabbitmq_server: RabbitMQ, rows: Beside) -> None:
    await check.run(site(rabbitmq_server, rows))
