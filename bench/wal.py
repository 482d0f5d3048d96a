"""wal: how large the write-ahead log becomes while three foreign readers each hold a read transaction for 100 ms.

`python -m bench.wal PATH DELAY` is such a reader; it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from bench import raw
from bench.reading import Reading, Task, Watch
from bench.sample import OrderPlaced, orders
from tidings import App

READERS = 3
HOLD = 0.1
SECONDS = 8.0
PUBLISHERS = 500
LOOK = 0.005
MB = 1e6


def ours(task: Task) -> Reading:
    """Publishers of tidings at full speed."""

    async def run() -> Reading:
        path = task.folder / "ours.db"
        async with App("bench", f"sqlite:{path}") as app:
            await app.publish(*orders(1000))
            return await _grown(app.publish, path, SECONDS * task.scale)

    return asyncio.run(run())


def by_hand(task: Task) -> Reading:
    """The same over the raw loop, whose checkpoints wait for no reader."""

    async def run() -> Reading:
        path = task.folder / "raw.db"
        log = raw.GroupCommit(path)
        try:
            await log.publish(orders(1)[0])
            return await _grown(log.publish, path, SECONDS * task.scale)
        finally:
            log.close()

    return asyncio.run(run())


async def _grown(publish: Callable[[OrderPlaced], Awaitable[None]], path: Path, seconds: float) -> Reading:
    """The largest WAL in MB."""
    events = orders(PUBLISHERS)
    done, largest, wal = 0, 0, f"{path}-wal"

    async def publisher(event: OrderPlaced) -> None:
        nonlocal done
        while time.perf_counter() < deadline or not done:
            await publish(event)
            done += 1

    deadline = time.perf_counter() + seconds
    watch = Watch()
    with _readers(path):
        async with asyncio.TaskGroup() as group:
            for event in events:
                group.create_task(publisher(event))
            while time.perf_counter() < deadline:
                largest = max(largest, os.stat(wal).st_size)
                await asyncio.sleep(LOOK)
    rate = watch.rate(done)
    return Reading(largest / MB, rate.cpu, {"rate": rate.value})


@contextlib.contextmanager
def _readers(path: Path) -> Iterator[None]:
    """They do not begin together, so that one is always reading."""
    commands = [[sys.executable, "-m", "bench.wal", str(path), str(HOLD * n / READERS)] for n in range(READERS)]
    readers = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
    try:
        yield
    finally:
        for reader in readers:
            reader.communicate()


def main() -> None:
    """A slow reader: BEGIN, one SELECT, 100 ms of nothing, COMMIT, again and again."""
    path, delay = sys.argv[1:]
    time.sleep(float(delay))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    while not select.select([sys.stdin], [], [], 0)[0]:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM (SELECT 1 FROM tidings_log LIMIT 500)").fetchone()
        time.sleep(HOLD)
        connection.execute("COMMIT")
    connection.close()


if __name__ == "__main__":
    main()
