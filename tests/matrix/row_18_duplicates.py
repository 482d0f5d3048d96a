"""18: a publisher tells one event in ten twice, under the same id.

The window in which that is found out is as long as the topic keeps the first of them: a week by default (`keep`), and
always until every group has settled it. After that the same id is a new event.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.site import Site, doubled, effect, until
from tidings import App, Event, Start
from tidings.brokers.sqlite import KEEP_SECONDS

EVENTS, PUBLISHERS = 1000, 10
KEPT = 0.5


class Paid(Event, name="payment.made", key="key"):
    key: str
    number: int


app = App("shop")


@app.on(Paid, start=Start.EARLIEST)
def book(paid: Paid, db: sqlite3.Connection) -> None:
    effect(db, "book", paid.key, paid.number)


def numbers_of(site: Site) -> list[int]:
    return [each.number for each in site.effects()]


async def publish(site: Site, twice: set[int]) -> None:
    """Publishers side by side, each at its own pace; the second time at once, later, or delayed."""

    async def tell(publisher: App, share: range) -> None:
        chance = random.Random(share.start)
        waiting: list[int] = []
        for number in share:
            for each in [number, *(waiting if chance.random() < 0.2 else [])]:
                delay = 0.05 if each != number and chance.random() < 0.3 else None
                await publisher.publish(Paid(key=f"k{each % 50}", number=each), id=f"paid-{each}", delay=delay)
            waiting = [number] if number in twice else waiting

    async with contextlib.AsyncExitStack() as stack:
        publishers = [await stack.enter_async_context(site.publisher()) for _ in range(2)]
        step = EVENTS // PUBLISHERS
        shares = [range(first, first + step) for first in range(0, EVENTS, step)]
        await asyncio.gather(*(tell(publishers[n % 2], share) for n, share in enumerate(shares)))
        for number in sorted(twice):  # all of them, once more, when most have been handled
            await publishers[0].publish(Paid(key=f"k{number % 50}", number=number), id=f"paid-{number}")


async def within(site: Site, twice: set[int]) -> Figures:
    """One effect each."""
    worker = await site.start()
    await publish(site, twice)
    await site.drained()
    numbers = numbers_of(site)
    assert doubled(numbers) == 0
    assert len(numbers) == EVENTS, "an event was lost"
    assert await worker.stop() == 0
    return {"events": EVENTS, "ids told again": len(twice), "duplicate effects in the window": 0}


async def unsettled(site: Site) -> Figures:
    """However old it is: what a group has not settled is not forgotten."""
    async with site.publisher(keep=KEPT) as publisher:
        await publisher.publish(Paid(key="old", number=-1), id="paid-old")
        await asyncio.sleep(2 * KEPT)
    async with site.publisher(keep=KEPT) as publisher:  # retention is applied when it opens
        await publisher.publish(Paid(key="old", number=-1), id="paid-old")
    (kept,) = site.rows("SELECT count(*) FROM tidings_log WHERE id = 'paid-old'")[0]
    assert kept == 1
    await site.start()
    await site.drained()
    assert numbers_of(site).count(-1) == 1
    return {"unsettled and older than the window, twice": 0}


async def after(site: Site, twice: set[int]) -> Figures:
    """The window is over: a new event, as documented."""
    await asyncio.sleep(KEPT)
    async with site.publisher(keep=KEPT) as publisher:
        await until(lambda: site.rows("SELECT count(*) FROM tidings_log WHERE id LIKE 'paid-%'") == [(0,)])
        for number in sorted(twice):
            await publisher.publish(Paid(key=f"k{number % 50}", number=number), id=f"paid-{number}")
        await site.drained()
    again = doubled(numbers_of(site))
    assert again == len(twice)
    return {"after the window, handled anew": again, "window, days": KEEP_SECONDS / 86400}


async def run(folder: Path) -> Figures:
    twice = set(random.Random(18).sample(range(EVENTS), EVENTS // 10))
    async with Site(folder, __name__) as site:
        return {**await within(site, twice), **await unsettled(site), **await after(site, twice)}


ROW = Row(
    "18",
    "a publisher tells 10 % of its events twice, under the same id",
    "one effect for as long as the topic keeps the first (a week by default, and in any case until every group has "
    "settled it); after that the id is that of a new event",
    run,
)
