"""publish_1, publish_100, publish_1000: that many coroutines, each awaiting its own. publish_many: 1,000 a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench import raw
from bench.reading import Reading, Task, Watch
from bench.sample import OrderPlaced, orders
from tidings import App

SECONDS = 1.2
MANY = 1000
WARM_UP = 0.1

Publish = Callable[[OrderPlaced], Awaitable[None]]


def ours(task: Task, *, publishers: int) -> Reading:
    """`await app.publish(event)`."""

    async def run() -> Reading:
        async with App("bench", f"sqlite:{task.folder}/ours.db") as app:
            return await _publishing(app.publish, publishers, SECONDS * task.scale)

    return asyncio.run(run())


def by_hand(task: Task, *, publishers: int) -> Reading:
    """The same over a hand-written group commit."""

    async def run() -> Reading:
        log = raw.GroupCommit(task.folder / "raw.db")
        try:
            return await _publishing(log.publish, publishers, SECONDS * task.scale)
        finally:
            log.close()

    return asyncio.run(run())


async def _publishing(publish: Publish, publishers: int, seconds: float) -> Reading:
    """What the publishers did within that time, after a tenth of it to warm up."""
    done, over = 0, False

    async def publisher(event: OrderPlaced) -> None:
        nonlocal done
        while not over:
            await publish(event)
            done += 1

    async with asyncio.TaskGroup() as group:
        for event in orders(publishers):
            group.create_task(publisher(event))
        await asyncio.sleep(seconds * WARM_UP)
        before, watch = done, Watch()
        await asyncio.sleep(seconds)
        while done == before:  # noqa: ASYNC110 - a test's window is short, and a disk may be slow
            await asyncio.sleep(seconds)
        reading = watch.rate(done - before)
        over = True
    return reading


def ours_many(task: Task) -> Reading:
    """`await app.publish(*thousand_events)`, again and again."""

    async def run() -> Reading:
        async with App("bench", f"sqlite:{task.folder}/ours.db") as app:
            events = orders(MANY)
            await app.publish(*events)
            count, watch = 0, Watch()
            deadline = time.perf_counter() + SECONDS * task.scale
            while time.perf_counter() < deadline:
                await app.publish(*events)
                count += MANY
            return watch.rate(count)

    return asyncio.run(run())


def by_hand_many(task: Task) -> Reading:
    """Encode, executemany, COMMIT, and a checkpoint now and then, in one thread."""
    connection = raw.connect(task.folder / "raw.db")
    row = raw.Rows(raw.topic_id(connection, "order"))
    events = orders(MANY)

    def commit() -> None:
        rows = [row(event) for event in events]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(raw.INSERT, rows)
        connection.execute("COMMIT")

    commit()
    count, written, watch = 0, 0, Watch()
    deadline = time.perf_counter() + SECONDS * task.scale
    while time.perf_counter() < deadline:
        commit()
        count += MANY
        written += MANY
        if written > raw.CHECKPOINT_EVENTS:
            written = 0
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    reading = watch.rate(count)
    connection.close()
    return reading
