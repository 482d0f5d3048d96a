"""end_to_end: from the call of publish in one process to the handler in another, at 10,000 events/s, come what may.

`python -m bench.latency ours|raw PATH COUNT` is the consuming process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import msgspec

from bench import raw
from bench.reading import Reading, Task
from bench.sample import OrderPlaced, orders, placed_now
from tidings import App

RATE = 10_000
SECONDS = 3.0
TICK = 0.001
WARM_UP = 0.2
PATIENCE = 30.0


# -- the publishing process


def ours(task: Task) -> Reading:
    """`await app.publish(event)` in a task of its own for each event; an `async def` handler in another process."""

    async def run() -> Reading:
        path = task.folder / "ours.db"
        async with _consumer("ours", path, _count(task)) as consumer, App("bench", f"sqlite:{path}") as app:
            await _offer(app.publish, _count(task))
            return await told(consumer)

    return asyncio.run(run())


def by_hand(task: Task) -> Reading:
    """A hand-written group commit here, a hand-written loop on inotify there."""

    async def run() -> Reading:
        path = task.folder / "raw.db"
        log = raw.GroupCommit(path, shared=True)
        try:
            async with _consumer("raw", path, _count(task)) as consumer:
                await _offer(log.publish, _count(task))
                return await told(consumer)
        finally:
            log.close()

    return asyncio.run(run())


def _count(task: Task) -> int:
    return int(RATE * SECONDS * task.scale)


def _consumer(side: str, path: Path, count: int) -> contextlib.AbstractAsyncContextManager[Process]:
    return consuming("bench.latency", side, str(path), str(count))


@contextlib.asynccontextmanager
async def consuming(module: str, *words: str) -> AsyncGenerator[Process]:
    """A consuming process, which has said that it is ready; it is killed where it does not end."""
    consumer = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *words, stdout=subprocess.PIPE)
    try:
        assert consumer.stdout is not None
        async with asyncio.timeout(PATIENCE):
            await consumer.stdout.readline()
        yield consumer
    finally:
        if consumer.returncode is None:
            consumer.kill()
        await consumer.wait()


async def told(consumer: Process) -> Reading:
    """What a consuming process says in the end."""
    async with asyncio.timeout(PATIENCE):
        said, _ = await consumer.communicate()
    return msgspec.json.decode(said, type=Reading)


async def _offer(publish: Callable[[OrderPlaced], Awaitable[None]], count: int) -> None:
    """Every millisecond, what is due by then, whether or not the earlier ones have been kept."""
    pool = orders(1000)

    async def one(order: OrderPlaced) -> None:
        await publish(placed_now(order))

    offered = 0
    async with asyncio.TaskGroup() as group:
        start = time.perf_counter()
        while offered < count:
            due = min(int((time.perf_counter() - start) * RATE), count)
            for index in range(offered, due):
                group.create_task(one(pool[index % 1000]))
            offered = due
            await asyncio.sleep(TICK)


# -- the consuming process


class Latencies:
    """What the handler saw, until it has seen all."""

    def __init__(self, count: int) -> None:
        self.all = asyncio.Event()
        self.count = count
        self._seconds: list[float] = []
        self._cpu = time.process_time()

    async def handle(self, event: OrderPlaced) -> None:
        """Note how long it took."""
        self._seconds.append(time.perf_counter() - event.placed_at)
        if len(self._seconds) == self.count:
            self.all.set()

    def reading(self) -> Reading:
        """The median in ms, without the first fifth."""
        counted = sorted(self._seconds[int(self.count * WARM_UP) :])
        p50, p99, most = (counted[int((len(counted) - 1) * share)] * 1000 for share in (0.5, 0.99, 1.0))
        return Reading(p50, (time.process_time() - self._cpu) / self.count * 1e6, {"p99": p99, "max": most})


async def _handled_by_us(path: Path, latencies: Latencies) -> None:
    app = App("bench", f"sqlite:{path}")

    @app.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        await latencies.handle(event)

    async with app.running():
        print("ready", flush=True)
        await latencies.all.wait()


async def _handled_by_hand(path: Path, latencies: Latencies) -> None:
    connection = raw.connect(path)
    turn, topic = raw.Turn(path), raw.topic_id(connection, "order")
    connection.execute(raw.START)
    decode = msgspec.json.Decoder(OrderPlaced).decode
    heard = asyncio.Event()
    notify = raw.watch(raw.notify_file(path))

    def wake() -> None:
        os.read(notify, 65536)
        heard.set()

    asyncio.get_running_loop().add_reader(notify, wake)
    print("ready", flush=True)
    pos = 0
    while not latencies.all.is_set():
        heard.clear()
        rows = connection.execute(raw.SELECT, (topic, pos, raw.BATCH)).fetchall()
        if not rows:
            await heard.wait()
            continue
        for _, _, _, body in rows:
            await latencies.handle(decode(body))
        pos = rows[-1][0]
        with turn():
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(raw.OFFSET, (pos,))
            connection.execute("COMMIT")
    connection.close()


async def _consume(side: str, path: Path, count: int) -> Reading:
    latencies = Latencies(count)
    await {"ours": _handled_by_us, "raw": _handled_by_hand}[side](path, latencies)
    return latencies.reading()


def main() -> None:
    """The consuming process: says when it listens, then what it saw."""
    side, path, count = sys.argv[1:]
    reading = asyncio.run(_consume(side, Path(path), int(count)))
    os.write(1, msgspec.json.encode(reading))


if __name__ == "__main__":
    main()
