"""25: another program holds the file's write lock for a while.

A worker and a publisher meet a foreign `BEGIN EXCLUSIVE` that lasts a while: nothing may be lost or doubled, and nobody
may give up. 25b holds it for longer; 25c sees what becomes of each call.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tests.matrix import Figures, Row, filing
from tests.matrix.filing import Filed
from tests.matrix.site import Site, doubled, until
from tidings import PublishFailed
from tidings.errors import StorageBusy

LOCKED = 1.5
"""Seconds; 25b has more."""
EVENTS = 40


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """By another program, which knows nothing of us."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


# -- for real processes


async def wait_for_it(folder: Path, seconds: float, workers: int) -> Figures:
    """A publisher and workers, and the lock in the middle."""
    async with Site(folder, filing.__name__) as site, site.publisher() as publisher:
        running = [await site.start() for _ in range(workers)]
        refused: list[BaseException | None] = []

        async def tell(number: int) -> None:
            while True:
                try:
                    await publisher.publish(Filed(key=f"k{number % 7}", number=number), id=f"filed-{number}")
                except PublishFailed as error:
                    refused.append(error.__cause__)
                else:
                    return

        await asyncio.gather(*map(tell, range(EVENTS)))
        await until(site.effects)
        with locked(site.database):
            telling = [asyncio.create_task(tell(number)) for number in range(EVENTS, 2 * EVENTS)]
            await asyncio.sleep(seconds)
            assert not any(task.done() for task in telling)
        free = time.monotonic()
        await asyncio.gather(*telling)
        await site.drained()
        assert all(isinstance(error, StorageBusy) for error in refused), refused
        numbers = [each.number for each in site.effects()]
        assert sorted(set(numbers)) == list(range(2 * EVENTS)), "something was lost"
        assert doubled(numbers) == 0
        assert [await worker.stop() for worker in running] == [0] * workers
        first = min(each.at for each in site.effects() if each.number >= EVENTS)
    return {
        "locked, s": seconds, "publishes refused, and told again": len(refused), "lost": 0, "duplicate effects": 0,
        "first effect after it, s": first - free,
    }  # fmt: skip


async def run(folder: Path) -> Figures:
    return await wait_for_it(folder, LOCKED, workers=1)


ROW = Row(
    "25",
    "another program holds the write lock (BEGIN EXCLUSIVE) for less than anybody's patience of 5 s",
    "everybody waits: nothing is refused, lost or doubled, and all goes on by itself",
    run,
)
