"""13: members of a group come and go every few hundred milliseconds while events are handled.

Two worker processes stay; a third comes and goes in order; a fourth is killed; a fifth member lives in this process
and joins and leaves faster than any process can start.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.site import Site, Worker, by_key, doubled, effect, inversions, longest_gap
from tidings import App, Delivery, Event, Start, Tx

KEYS = 48
SECONDS = 5.0
PAUSE = 0.3


class Moved(Event, name="stock.moved", key="key"):
    key: str
    number: int


def build(url: str | None = None) -> App:
    made = App("shop", url)
    tally = made.table("tally", list[int])

    @made.on(Moved, start=Start.EARLIEST)
    def book(moved: Moved, db: sqlite3.Connection, delivery: Delivery) -> None:
        effect(db, "book", moved.key, moved.number, delivery.attempt)

    @made.on(Moved, start=Start.EARLIEST)
    async def slowly(moved: Moved, tx: Tx) -> None:
        await asyncio.sleep(0.03)
        tx.put(tally, moved.key, [*await tx.get(tally, moved.key, []), moved.number])

    return made


app = build()


class Changes:
    """Who comes and goes, and how often. Each does so until `over`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.over = False
        self.count = 0
        self.codes: list[int] = []
        self.chance = random.Random(13)

    async def here(self) -> None:
        """A member in this process."""
        while not self.over:
            async with build(self.site.url).running():
                await self._pause()
            await self._pause()

    async def in_order(self) -> None:
        """A process that is told to stop."""

        async def stop(worker: Worker) -> None:
            self.codes.append(await worker.stop())

        await self._processes(stop)

    async def killed(self) -> None:
        """A process that is killed."""
        await self._processes(Worker.kill)

    async def _processes(self, end: Callable[[Worker], Awaitable[None]]) -> None:
        while not self.over:
            worker = await self.site.start()
            await self._pause()
            await end(worker)
            self.count += 1

    async def _pause(self) -> None:
        self.count += 1
        await asyncio.sleep(PAUSE * self.chance.uniform(0.5, 1.5))


async def publish(site: Site, changes: Changes) -> int:
    """Events at a steady pace for as long as members change."""
    numbers = 0
    end = time.monotonic() + SECONDS
    async with site.publisher() as publisher:
        while time.monotonic() < end:
            await publisher.publish(*(Moved(key=f"k{n % KEYS}", number=n) for n in range(numbers, numbers + 24)))
            numbers += 24
            await asyncio.sleep(0.05)
    changes.over = True
    return numbers


async def run(folder: Path) -> Figures:
    async with Site(folder, __name__) as site:
        for _ in range(2):
            await site.start()
        changes = Changes(site)
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(publish(site, changes))
            for change in (changes.here, changes.in_order, changes.killed):
                group.create_task(change())
        count = publishing.result()
        await site.drained()
        effects, tallied = site.effects(), site.tally("shop.tally")
        figures = judged(count, [*by_key(effects).values(), *tallied.values()])
        assert set(changes.codes) <= {0}
    stall = longest_gap(each.at for each in effects)
    assert stall < 10.0
    return {"events": count, "members came or went": changes.count, **figures, "longest stall, s": stall}


def judged(count: int, sequences: list[list[int]]) -> Figures:
    """By the order of the effects of each key and handler."""
    numbers = [number for sequence in sequences for number in sequence]
    duplicates, inverted = sum(map(doubled, sequences)), inversions(sequences)
    lost = 2 * count - len(numbers) + duplicates
    assert duplicates == inverted == lost == 0
    return {"lost": lost, "duplicate effects": duplicates, "inversions": inverted}


ROW = Row(
    "13",
    "members of a group come, go and are killed every few hundred milliseconds while events are handled",
    "what a member hands over is fenced and comes again: one effect each, in the order of its key",
    run,
)
