"""10: the disk is full, and then it is not.

The database lies on a disk of ten megabytes, of which another file takes eight; logs lie elsewhere. Publishers go on
trying, a worker goes on working; then somebody frees space. A publish that raised `StorageFull` was not kept: its event
may never be handled.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.matrix import Figures, Row, filing
from tests.matrix.filing import PAGE, Filed
from tests.matrix.site import PATIENCE, Site, doubled, until
from tests.storage.mount import disk
from tidings import App, StorageFull

SIZE, BALLAST = "10m", 8 << 20
PUBLISHERS = 8
FULL = 1.0
"""Seconds that it stays full."""
AFTERWARDS = 200


class Outcome(NamedTuple):
    """What publishers were told, in order: a number was kept or refused, and when."""

    number: int
    kept: bool
    at: float


class Told:
    """What publishers were told, until enough was kept since there was space again: they must not fill it anew."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.freed = float("inf")
        self.left = AFTERWARDS

    def add(self, number: int, *, kept: bool) -> None:
        now = time.monotonic()
        self.outcomes.append(Outcome(number, kept, now))
        self.left -= kept and now > self.freed


async def tell(publisher: App, numbers: Iterator[int], told: Told) -> None:
    """Publish until it is enough. What is refused is not tried again: it must never be seen."""
    while told.left > 0:
        number = next(numbers)
        try:
            await publisher.publish(Filed(key=f"k{number % 20}", number=number, text=PAGE))
        except StorageFull:
            told.add(number, kept=False)
            await asyncio.sleep(0.02)
        else:
            told.add(number, kept=True)


async def through(site: Site, ballast: Path) -> Told:
    """Publish until it is full, for a while longer, and then until it has gone on for a while."""
    told = Told()
    async with site.publisher() as publisher, asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
        numbers = itertools.count()
        publishers = [group.create_task(tell(publisher, numbers, told)) for _ in range(PUBLISHERS)]
        await until(lambda: any(not outcome.kept for outcome in told.outcomes))
        await asyncio.sleep(FULL)
        told.freed = time.monotonic()
        ballast.unlink()  # noqa: ASYNC240 - at once
        await asyncio.wait(publishers)
    return told


async def full(site: Site, ballast: Path) -> Figures:
    worker = await site.start()
    told = await through(site, ballast)
    freed = told.freed

    def first(times: Iterable[float]) -> float:
        return min(at for at in times if at > freed)

    await site.drained()
    assert site.rows("PRAGMA integrity_check") == [("ok",)]
    assert await worker.stop() == 0, "it had to be started again"
    kept, refused = ({each.number for each in told.outcomes if each.kept is wanted} for wanted in (True, False))
    effects = site.effects()
    numbers = [each.number for each in effects]
    assert not kept.difference(numbers), "an acknowledged event was lost"
    assert not refused.intersection(numbers), "what was refused was handled"
    assert doubled(numbers) == 0
    return {
        "acknowledged": len(kept), "refused": len(refused), "acknowledged and lost": 0, "refused and handled": 0,
        "first publish after there was space, s": first(each.at for each in told.outcomes if each.kept) - freed,
        "first effect after there was space, s": first(each.at for each in effects) - freed,
    }  # fmt: skip


async def run(folder: Path) -> Figures:
    with disk(folder / "disk", SIZE) as mounted:
        if not mounted:
            assert os.geteuid() != 0 or "CI" not in os.environ, "root could not mount a disk"
            return {"left out": "mounting a small disk needs root; tests/brokers has the same with a limit of pages"}
        ballast = folder / "disk" / "ballast"
        ballast.write_bytes(bytes(BALLAST))
        (folder / "tidings.db").symlink_to(folder / "disk" / "tidings.db")
        async with Site(folder, filing.__name__) as site:
            return await full(site, ballast)


ROW = Row(
    "10",
    "the disk is full under publishers and a worker, and is freed after a while",
    "publish raises StorageFull, and what was refused never appears; nothing acknowledged is lost, the file stays "
    "whole, and all goes on by itself",
    run,
)
