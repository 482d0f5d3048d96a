"""From publish in one process to the handler in another, 500 events/s offered, come what may.

`python -m bench.brokers.latency KIND ours|raw URL TOPIC COUNT` is the consuming process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from bench.brokers import by_hand, ours
from bench.brokers.client import client
from bench.brokers.count import Counted
from bench.latency import Latencies, consuming, told
from bench.reading import Reading
from bench.sample import OrderPlaced, orders, placed_at
from tidings import App

RATE = 500
SECONDS = 6.0
PATIENCE = 60.0

Publish = Callable[[Sequence[OrderPlaced]], Coroutine[Any, Any, None]]


# -- the publishing process


async def by_us(kind: str, url: str, topic: str, count: int) -> Reading:
    """`await app.publish(*what_is_due)` in a task of its own; an `async def` handler in another process."""
    placed = ours.placed_on(topic)
    await ours.declare(url, placed)
    async with App("bench", url) as app:

        async def publish(some: Sequence[OrderPlaced]) -> None:
            await app.publish(*some)

        return await _measured(publish, ours.events(placed, 1000), count, [kind, "ours", url, topic])


async def by_raw(kind: str, url: str, topic: str, count: int) -> Reading:
    """The plain client here, the plain client there."""
    plain = client(kind, url, topic)
    await plain.open()
    await plain.declare()

    async def publish(some: Sequence[OrderPlaced]) -> None:
        await plain.publish(by_hand.pairs(some))

    reading = await _measured(publish, orders(1000), count, [kind, "raw", url, topic])
    await plain.close()
    return reading


async def _measured(publish: Publish, pool: Sequence[OrderPlaced], count: int, where: Sequence[str]) -> Reading:
    """One event goes ahead: the consumer is ready when it has handled it."""
    await publish(pool[:1])
    async with consuming("bench.brokers.latency", *where, str(count + 1)) as consumer:
        await _offer(publish, pool, count)
        return await told(consumer)


async def _offer(publish: Publish, pool: Sequence[OrderPlaced], count: int) -> None:
    """What is due, when it is due. A publisher that blocks finds more due; the delay is counted from when it was."""
    loop, due, start = asyncio.get_running_loop(), asyncio.Event(), time.perf_counter()
    pace = threading.Thread(target=_pace, args=(start, count, lambda: loop.call_soon_threadsafe(due.set)))
    pace.start()
    offered = 0
    async with asyncio.TaskGroup() as group:
        while offered < count:
            await due.wait()
            due.clear()
            until = min(int((time.perf_counter() - start) * RATE) + 1, count)
            some = [placed_at(pool[index % len(pool)], start + index / RATE) for index in range(offered, until)]
            if some:
                group.create_task(publish(some))
            offered = until
    pace.join()


def _pace(start: float, count: int, tell: Callable[[], object]) -> None:
    """A thread, since an event loop's clock is not finer than a millisecond."""
    for index in range(count):
        time.sleep(max(start + index / RATE - time.perf_counter(), 0))
        tell()


# -- the consuming process


async def _handled_by_us(url: str, topic: str, note: ours.Handle, latencies: Latencies) -> None:
    async with ours.working(ours.app_on(url, ours.placed_on(topic), note)):
        await latencies.all.wait()


async def _handled_by_hand(kind: str, url: str, topic: str, note: ours.Handle, latencies: Latencies) -> None:
    plain = client(kind, url, topic)
    await plain.open()
    await by_hand.consume(plain, note, Counted(latencies.count))
    await plain.close()


async def _consume(kind: str, side: str, url: str, topic: str, count: int) -> Reading:
    latencies = Latencies(count)
    first = True

    async def note(event: OrderPlaced) -> None:
        nonlocal first
        if first:
            first = False
            print("ready", flush=True)
        await latencies.handle(event)

    async with asyncio.timeout(PATIENCE):
        if side == "ours":
            await _handled_by_us(url, topic, note, latencies)
        else:
            await _handled_by_hand(kind, url, topic, note, latencies)
    return latencies.reading()


def main() -> None:
    """The consuming process: says when it listens, then what it saw."""
    kind, side, url, topic, count = sys.argv[1:]
    reading = asyncio.run(_consume(kind, side, url, topic, int(count)))
    os.write(1, msgspec.json.encode(reading))


if __name__ == "__main__":
    main()
