"""idle_cpu: what a worker costs that has nothing to do, in percent of a core."""

from __future__ import annotations

import asyncio
import os
import time

from bench import raw
from bench.reading import Reading, Task
from bench.sample import OrderPlaced
from tidings import App

SETTLE = 3.0
SECONDS = 10.0


def ours(task: Task) -> Reading:
    """A worker with one handler, its heartbeats and its look at the file now and then."""

    async def run() -> Reading:
        app = App("bench", f"sqlite:{task.folder}/ours.db")

        @app.on(OrderPlaced)
        async def wait(event: OrderPlaced) -> None:
            """Nothing."""

        async with app.running():
            return await _idle(task.scale)

    return asyncio.run(run())


def by_hand(task: Task) -> Reading:
    """An event loop that waits for inotify, and no more: the least that can be."""

    async def run() -> Reading:
        path = task.folder / "notify"
        path.touch()
        descriptor = raw.watch(str(path))
        asyncio.get_running_loop().add_reader(descriptor, os.read, descriptor, 65536)
        return await _idle(task.scale)

    return asyncio.run(run())


async def _idle(scale: float) -> Reading:
    await asyncio.sleep(SETTLE * scale)
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(SECONDS * scale)
    return Reading((time.process_time() - cpu) / (time.perf_counter() - wall) * 100)
