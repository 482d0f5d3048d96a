"""What the tests of Redis share: links with names of their own, records, and ways to take what comes."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence

from tidings.broker import Delivery, Record
from tidings.brokers.redis import RedisLink
from tidings.clock import Clock
from tidings.dev import Valkey
from tidings.errors import BrokerError, Fenced
from tidings.link import Line

GROUP = "shop.reserve"
NUMBERS = itertools.count(1)


def own() -> str:
    """A prefix that no other test has."""
    return f"own{next(NUMBERS)}"


@contextlib.asynccontextmanager
async def opened(
    server: Valkey, prefix: str, more: str = "", *, lease: float = 3.0, keep: float | None = None
) -> AsyncIterator[RedisLink]:
    link = RedisLink(f"{server.url}?prefix={prefix}{more}", Clock(), lease=lease, keep=keep)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


def records(count: int, *, keys: int = 5, topic: str = "order", start: int = 0) -> list[Record]:
    return [
        Record(topic, f"body {n}".encode(), f"k{n % keys}", "order.created", f"id{n}", 1e9, {"source": "shop"})
        for n in range(start, start + count)
    ]


async def taken(line: Line, count: int, seconds: float = 20.0) -> list[Delivery]:
    """So many, through outages."""
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            try:
                found += await line.fetch(count - len(found), 1.0)
            except Fenced:
                raise
            except BrokerError:
                await asyncio.sleep(0.1)
    return found


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.record.id for each in deliveries]


def by_key(deliveries: Sequence[Delivery]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for each in deliveries:
        found.setdefault(each.record.key, []).append(each.record.id)
    return found


def silence(link: RedisLink, line: Line) -> None:
    """As SIGSTOP does: it gives no sign of life any more, and does not know that."""
    steward = line._steward  # type: ignore[attr-defined]
    steward.cancel()
    line._ears.close()  # type: ignore[attr-defined]
    link._lines.pop(line)
    line._steward = None  # type: ignore[attr-defined]
