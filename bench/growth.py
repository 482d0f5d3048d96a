"""growth: what ten million kept events do to appending, to reading what is new, and to the size of the file."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench import consume, raw
from bench.reading import Reading, Task, Watch
from bench.sample import KEYS, OrderPlaced, orders
from tidings import App, Start
from tidings.embedded.database import Database

MANY, FEW = 10_000_000, 100_000
NEW = 20_000
AT_ONCE = 1000


def fill(task: Task) -> None:
    """Two logs, filled beforehand, that all rounds go on with."""
    for events in (MANY, FEW):
        path = _log(task, events)
        if not path.exists():
            Database(path).open()  # marks the file as one of ours
            raw.fill(path, _stream(int(events * task.scale)))
    os.sync()


def _log(task: Task, events: int) -> Path:
    return task.shared / f"growth-{events}.db"


def _stream(count: int) -> Iterator[OrderPlaced]:
    return itertools.islice(itertools.cycle(orders(KEYS)), count)


def at(task: Task, *, events: int) -> Reading:
    """Append to the log of so many events, then read on from its end with a worker."""
    return asyncio.run(_at(_log(task, events), max(int(NEW * task.scale), AT_ONCE)))


async def _at(path: Path, new: int) -> Reading:
    app = App(f"growth{time.time_ns()}", f"sqlite:{path}")

    @app.on(OrderPlaced, start=Start.LATEST)
    async def read(event: OrderPlaced) -> None:
        """Nothing."""

    async with app:
        (worker,) = await app.start()
        events = orders(AT_ONCE)
        watch = Watch()
        for _ in range(0, new, AT_ONCE):
            await app.publish(*events)
        append = watch.rate(new)
        watch = Watch()
        running = asyncio.create_task(worker.run())
        await consume.until_handled(worker, running, new)
        tail = watch.rate(new)
        await worker.drain(5.0)
        await asyncio.wait([running])
    more = {"append": append.value, "tail": tail.value, "bytes": _bytes_an_event(path)}
    return Reading(append.value, append.cpu, more)


def _bytes_an_event(path: Path) -> float:
    connection = raw.connect(path)
    (kept,) = connection.execute("SELECT max(pos) - min(pos) + 1 FROM tidings_log").fetchone()
    connection.close()
    return path.stat().st_size / float(kept)
