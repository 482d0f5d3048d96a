"""A publisher process: `python -m tests.crash.publisher PLAN INDEX`, in the run's folder.

It publishes every event whose number is its own, in windows that are awaited together, as fast as the driver allows.
Started again after a kill, it knows from its journal what became of what it had attempted: of those without an
acknowledgement it tries every second one again under the same id, and lets the others be.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tests.crash.journal import ACKED, ATTEMPTED, Journal
from tests.crash.plan import NOTED, SOLD, Plan, event
from tests.crash.service import Noted, Returned, Sold
from tidings import App, Event, PublishFailed, StorageError

log = logging.getLogger("crash")

LARGEST_WINDOW = 40


def windows(plan: Plan, index: int, journal: Journal) -> Iterator[list[int]]:
    again = [number for number in sorted(journal.attempted - journal.acked) if number // plan.publishers % 2]
    if again:
        yield again
    last = max(journal.attempted, default=-1)
    todo = [number for number in range(index, plan.events, plan.publishers) if number > last]
    while todo:
        size = random.randint(1, LARGEST_WINDOW)
        yield todo[:size]
        todo = todo[size:]


def allowed(pace: Path) -> int:
    return int(pace.read_text() or "0")


async def publish(app: App, plan: Plan, number: int) -> bool:
    what = event(plan, number)
    message: Event = Noted(number=number)
    if what.kind != NOTED:
        message = (Sold if what.kind == SOLD else Returned)(number=number, key=what.key)
    try:
        await app.publish(message, id=f"{plan.seed}-{number:08d}", delay=what.delay)
    except (PublishFailed, StorageError) as error:
        log.warning("%d: %s", number, error)
        return False
    return True


async def publish_all(plan: Plan, index: int, folder: Path) -> None:
    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 1)
    journal = Journal(folder / f"journal-{index}")
    async with App("publisher", f"sqlite:{folder / 'tidings.db'}") as app:
        for window in windows(plan, index, journal):
            while allowed(folder / "pace") <= window[0]:  # noqa: ASYNC110 - the driver is another process
                await asyncio.sleep(0.01)
            await publish_window(app, plan, window, journal)


async def publish_window(app: App, plan: Plan, window: Sequence[int], journal: Journal) -> None:
    journal.write(ATTEMPTED, window)
    kept = await asyncio.gather(*(publish(app, plan, number) for number in window))
    journal.write(ACKED, [number for number, durable in zip(window, kept, strict=True) if durable])


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(message)s")
    asyncio.run(publish_all(msgspec.json.decode(sys.argv[1], type=Plan), int(sys.argv[2]), Path.cwd()))
