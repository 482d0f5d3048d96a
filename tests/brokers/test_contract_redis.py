"""Redis keeps the contract: with a store beside it all of it, without one all but what needs one."""

import itertools

import pytest
from redis import asyncio as plain

from tests.brokers.linked_site import ABLE, LEASE, NOTHING, Beside, LinkedSite, each, offered, with_a_store
from tidings.brokers.redis import RedisLink
from tidings.clock import Clock
from tidings.dev import Valkey
from tidings.redis.line import GroupLine
from tidings.testing import contract
from tidings.testing.contract import Check, Server

NUMBERS = itertools.count(1)
CHECKS = with_a_store(RedisLink.features, ABLE)


async def silence(link: RedisLink) -> None:
    """As a kill does: the connection ends, no sign of life comes any more and nothing is given back."""
    for line in list(link._lines):
        if isinstance(line, GroupLine):
            line._steward.stop()
            line._ears.close()
    await link._connection.close()


def site(server: Valkey, beside: Beside) -> Server:
    """A prefix of its own on the server."""
    prefix = f"contract{next(NUMBERS)}"
    url = f"{server.url}?prefix={prefix}"

    async def remove() -> None:
        client = plain.Redis(port=server.port)
        await client.delete(*[key async for key in client.scan_iter(f"{prefix}:*")])
        await client.aclose()

    site = LinkedSite(lambda: RedisLink(url, Clock(), lease=LEASE), beside.store, silence, lease=LEASE)
    return site.server(remove=remove, **offered(server, url, beside))


@pytest.mark.parametrize("check", contract.checks(RedisLink.features), ids=lambda check: check.name)
async def test_the_contract_without_a_store(check: Check, valkey_server: Valkey) -> None:
    await check.run(site(valkey_server, NOTHING))


@each(CHECKS)
async def test_the_contract_with_a_store(check: Check, valkey_server: Valkey, rows: Beside) -> None:
    await check.run(site(valkey_server, rows))
