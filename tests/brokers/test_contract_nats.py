"""NATS JetStream keeps the contract: with a store beside it all of it, without one all but what needs one."""

import itertools

import nats
import pytest

from tests.brokers.linked_site import ABLE, LEASE, NOTHING, Beside, LinkedSite, each, offered, with_a_store
from tidings.brokers.nats import NatsLink
from tidings.clock import Clock
from tidings.dev import Nats
from tidings.jetstream.line import GroupLine
from tidings.testing import contract
from tidings.testing.contract import Check, Server

NUMBERS = itertools.count(1)
CHECKS = with_a_store(NatsLink.features, ABLE)


async def silence(link: NatsLink) -> None:
    """As a kill does: the connection ends, no sign of life comes any more and nothing is given back."""
    connection = link._connection
    for line in list(connection.users):
        if isinstance(line, GroupLine):
            line._steward.stop()
    wire = connection.wire()
    connection._opened = False
    await wire.hang_up()


def site(server: Nats, beside: Beside) -> Server:
    """A prefix of its own on the server."""
    prefix = f"contract{next(NUMBERS)}"
    url = f"{server.url}?prefix={prefix}"

    async def remove() -> None:
        plain = await nats.connect(server.url)
        await plain.jetstream().delete_stream(f"{prefix}_contract")
        await plain.close()

    site = LinkedSite(lambda: NatsLink(url, Clock(), lease=LEASE), beside.store, silence, lease=LEASE)
    return site.server(remove=remove, **offered(server, url, beside))


@pytest.mark.parametrize("check", contract.checks(NatsLink.features), ids=lambda check: check.name)
async def test_the_contract_without_a_store(check: Check, nats_server: Nats) -> None:
    await check.run(site(nats_server, NOTHING))


@each(CHECKS)
async def test_the_contract_with_a_store(check: Check, nats_server: Nats, rows: Beside) -> None:
    await check.run(site(nats_server, rows))
