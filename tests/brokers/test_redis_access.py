"""Who may connect to Redis and how, and what is said to who may not.

The Valkey of the wheel speaks no TLS: here it stands behind what ends TLS, as servers in clouds do.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis.asyncio as plain

from tests.brokers.access import CODED, SECRET, Papers, refused, works
from tests.brokers.links import own
from tidings.brokers.redis import RedisLink
from tidings.clock import Clock
from tidings.dev import Valkey

RIGHTS = ["+hello", "+select", "+ping", "+time", "+wait"]


class Guarded(NamedTuple):
    """A server with TLS before it, which asks for a certificate, and `shop`, who may do what tidings needs."""

    port: int
    papers: Papers

    def link(self, user: str, options: str = "", prefix: str = "") -> RedisLink:
        return RedisLink(f"rediss://{user}@127.0.0.1:{self.port}?prefix={prefix or own()}&parts=1&{options}", Clock())

    def certificate(self, name: str) -> str:
        return f"{self.papers.ca}&{self.papers.of(name)}"


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def before(server: Valkey, certificates: Path) -> AsyncIterator[int]:
    """What ends TLS, and asks clients for a certificate; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward, outward = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(_pour(reader, outward), _pour(inward, writer))

    async with await asyncio.start_server(lead, "127.0.0.1", 0, ssl=context) as front:
        yield front.sockets[0].getsockname()[1]


@pytest.fixture
async def guarded(valkey_server: Valkey, certificates: Path) -> AsyncIterator[Guarded]:
    async with plain.Redis(port=valkey_server.port) as admin, before(valkey_server, certificates) as port:
        may = {"categories": ["+@read", "+@write", "+@scripting"], "commands": RIGHTS}
        await admin.acl_setuser("shop", enabled=True, passwords=[f"+{SECRET}"], keys=["own*"], **may)
        try:
            yield Guarded(port, Papers(certificates))
        finally:
            await admin.acl_deluser("shop")


async def test_who_has_a_certificate_and_a_password_comes_in(guarded: Guarded) -> None:
    await works(guarded.link(f"shop:{CODED}", guarded.certificate("client")))


async def test_who_has_not_is_told_why(guarded: Guarded) -> None:
    client, shop = guarded.certificate("client"), f"shop:{CODED}"
    await refused(guarded.link("shop:s3cr3t", client), "refuses this user and password")
    await refused(guarded.link(shop, client, "theirs"), r"lacks a right|no permission|NOPERM")
    await refused(guarded.link(shop), r"certificate is not accepted .* see \?ca=")
    await refused(guarded.link(shop, guarded.papers.ca), r"see \?cert=")
    await refused(guarded.link(shop, guarded.certificate("stranger")), r"see \?cert=")


async def test_a_server_that_wants_tls_says_so(guarded: Guarded) -> None:
    await refused(RedisLink(f"redis://shop:{CODED}@127.0.0.1:{guarded.port}", Clock()), "rediss://")
