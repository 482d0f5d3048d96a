"""A publisher process: `python -m tidings.chaos.publisher PLAN URL STORE INDEX`, in the run's folder.

It publishes every event whose number is its own, in windows that are awaited together, as fast as the driver allows.
Started again after a kill, it knows from its journal what became of what it had attempted: of those without an
acknowledgement it tries every second one again under the same id, and lets the others be. Those that are to be
published twice are published twice under the same id: some at once, some when the first is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidings import App
from tidings.chaos.journal import ACKED, AGAIN, ATTEMPTED, Journal
from tidings.chaos.plan import Plan, happening, republished
from tidings.chaos.service import message_of
from tidings.errors import BrokerError, Unreachable

log = logging.getLogger("chaos")

LARGEST_WINDOW = 40
LOOK_EVERY = 0.01
AGAIN_AFTER = 0.2


class Publisher:
    """Publishes what is its own of a plan's events."""

    def __init__(self, plan: Plan, index: int, folder: Path) -> None:
        self.plan = plan
        self.index = index
        self.journal = Journal(folder / f"journal-{index}")
        self._pace = folder / "pace"

    async def run(self, app: App) -> None:
        """Everything, from where the last one was killed."""
        done = self.journal.entries
        await self._publish_again(app, [number for number in sorted(done.acked - done.again) if self._twice(number)])
        if unknown := self._unknown():
            await self._publish_window(app, unknown)
        first = max(done.attempted, default=self.index - self.plan.publishers) + self.plan.publishers
        todo = range(first, self.plan.events, self.plan.publishers)
        while todo:
            allowed = len(range(todo.start, self._allowed(), self.plan.publishers))
            if not allowed:
                await asyncio.sleep(LOOK_EVERY)
                continue
            size = random.randint(1, min(allowed, len(todo), LARGEST_WINDOW))  # noqa: S311 - of no consequence
            await self._publish_window(app, todo[:size])
            todo = todo[size:]

    def _unknown(self) -> Sequence[int]:
        """What was attempted and not acknowledged, and is tried again."""
        done = self.journal.entries
        unknown = sorted(done.attempted - done.acked)
        return [number for number in unknown if number // self.plan.publishers % 2 or self._twice(number)]

    async def _publish_window(self, app: App, window: Sequence[int]) -> None:
        twice = [number for number in window if self._twice(number)]
        at_once, after = twice[::2], twice[1::2]
        self.journal.write(ATTEMPTED, window)
        keys: dict[str | int, list[int]] = {}
        for number in window:
            keys.setdefault(happening(self.plan, number).key or number, []).append(number)
        await asyncio.gather(*(self._publish_in_order(app, numbers, at_once) for numbers in keys.values()))
        self.journal.write(ACKED, window)
        if at_once:
            self.journal.write(AGAIN, at_once)
        await self._publish_again(app, after)

    async def _publish_in_order(self, app: App, numbers: Sequence[int], twice: Sequence[int]) -> None:
        """The events of a key, some twice: none is attempted while the one before may not be kept."""
        for number in numbers:
            await asyncio.gather(*(self._publish(app, number) for _ in range(1 + (number in twice))))

    async def _publish_again(self, app: App, numbers: Sequence[int]) -> None:
        if numbers:
            await asyncio.gather(*(self._publish(app, number) for number in numbers))
            self.journal.write(AGAIN, numbers)

    async def _publish(self, app: App, number: int) -> None:
        """Until it is kept, under the same id."""
        what = happening(self.plan, number)
        while True:
            try:
                await app.publish(message_of(what), id=f"{self.plan.seed}-{number:08d}", delay=what.delay)
            except BrokerError as error:
                log.warning("%d: %s", number, error)
                await asyncio.sleep(AGAIN_AFTER)
            else:
                return

    def _twice(self, number: int) -> bool:
        return republished(self.plan, number)

    def _allowed(self) -> int:
        return int(self._pace.read_text() or "0")


async def publish(plan: Plan, index: int, url: str, store: str | None) -> None:
    """Publish until all is published, or the driver is gone."""
    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 1)
    publisher = Publisher(plan, index, Path.cwd())
    app = App("publisher", url, store=store)
    while True:
        try:
            await app.open()
        except Unreachable as error:
            log.warning("%s", error)
            await asyncio.sleep(AGAIN_AFTER)
        else:
            break
    try:
        await publisher.run(app)
    finally:
        await app.close()


def main(arguments: Sequence[str]) -> None:
    """What the command line says."""
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(message)s")
    plan, url, store, index = arguments
    asyncio.run(publish(msgspec.json.decode(plan, type=Plan), int(index), url, store or None))


if __name__ == "__main__":
    main(sys.argv[1:])
