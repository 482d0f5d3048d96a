"""What the tests of links share: records, ways to take what comes, and what holds on each."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from tidings.broker import Delivery, Record
from tidings.errors import BrokerError, Fenced, PublishFailed
from tidings.link import Line, Link

GROUP = "shop.reserve"
NUMBERS = itertools.count(1)


def own() -> str:
    """A prefix that no other test has."""
    return f"own{next(NUMBERS)}"


def records(count: int, *, keys: int = 5, topic: str = "order", start: int = 0) -> list[Record]:
    return [
        Record(topic, f"body {n}".encode(), f"k{n % keys}", "order.created", f"id{n}", 1e9, {"source": "shop"})
        for n in range(start, start + count)
    ]


async def taken(line: Line, count: int, seconds: float = 60.0) -> list[Delivery]:
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


async def publish_all(link: Link, wanted: Sequence[Record]) -> None:
    """As the engine does: what may not be kept is published again, however long the server is away."""
    left = wanted
    while left:
        try:
            await link.publish(left)
            return
        except PublishFailed as failed:
            left = [each for each in left if each.id in failed.unsent]
            await asyncio.sleep(0.1)


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
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


async def shared_and_handed_over(one: Link, other: Link) -> None:
    """Two members come to have parts both, when what the first had is settled; the one that is left has all again."""
    first = await one.join(["order"], GROUP)
    await one.publish(records(40, keys=40))
    held = await taken(first, 40)
    second = await other.join(["order"], GROUP)
    assert await second.fetch(100, 0.3) == []
    await first.done(held)
    seen: dict[str, int] = {}
    number = 40
    async with asyncio.timeout(60):
        while set(seen.values()) != {1, 2}:
            await one.publish(records(20, keys=40, start=number))
            number += 20
            for name, member in ((1, first), (2, second)):
                lent = await member.fetch(100, 0.1)
                await member.done(lent)
                assert not seen.keys() & set(ids(lent))
                seen |= dict.fromkeys(ids(lent), name)
    await first.close()
    await one.publish(records(40, keys=40, start=number))
    assert len(await taken(second, number - 40 - len(seen) + 40)) >= 40
