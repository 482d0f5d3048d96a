"""What all cases of FastStream do, whatever the broker: publish with many coroutines, consume a backlog."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

from bench.peers.order import Order, Watch, read, typed

BATCH = 500
AT_ONCE = 100


class Peer(Protocol):
    """A FastStream broker object, where it publishes to, and what a handler subscribes to, one by one or in batches."""

    broker: Any
    where: dict[str, Any]

    def subscribe(self, handler: Any, *, batch: bool, acked: bool) -> None:
        """With `acked` what has been handled is acknowledged after it, whatever the default is."""
        ...

    async def declare(self) -> None:
        """Make an empty stream."""
        ...


async def work(peer: Peer, name: str, orders: Sequence[Order], *, seconds: float, count: int) -> None:
    """publish_1, publish_100, consume, consume_acked or consume_batches."""
    await peer.declare()
    if name.startswith("consume"):
        await consume(peer, orders, count, batch=name.endswith("batches"), acked=name.endswith("acked"))
    else:
        await peer.broker.start()
        await publish(peer, orders[: int(name.removeprefix("publish_"))], seconds)
    os._exit(0)  # an orderly end can take for ever: its tasks do not always heed a cancellation


async def publish(peer: Peer, orders: Sequence[Order], seconds: float) -> None:
    """One coroutine for each order, awaiting its own; the first tenth of the time warms up."""
    done = 0

    async def publisher(order: Order) -> None:
        nonlocal done
        while time.perf_counter() < deadline:
            await peer.broker.publish(order, **peer.where)
            done += 1

    deadline = time.perf_counter() + seconds * 1.1
    async with asyncio.TaskGroup() as group:
        for order in orders:
            group.create_task(publisher(order))
        await asyncio.sleep(seconds * 0.1)
        before, watch = done, Watch()
        await asyncio.sleep(seconds)
        watch.tell(done - before)


async def consume(peer: Peer, orders: Sequence[Order], count: int, *, batch: bool, acked: bool) -> None:
    """A backlog of typed events, and a handler that only counts."""
    seen, first, watch = 0, 0, Watch()
    all_seen = asyncio.Event()

    async def handle(order: Order) -> None:
        await handle_batch([order])

    async def handle_batch(some: list[Order]) -> None:
        nonlocal seen, first, watch
        if not seen:
            first, watch = len(some), Watch()  # neither connecting nor the first delivery is counted
        seen += len(some)
        if seen >= count:
            all_seen.set()

    await peer.broker.connect()
    for start in range(0, count, AT_ONCE):
        some = (orders[index % len(orders)] for index in range(start, min(start + AT_ONCE, count)))
        await asyncio.gather(*(peer.broker.publish(order, **peer.where) for order in some))
    peer.subscribe(handle_batch if batch else handle, batch=batch, acked=acked)
    await peer.broker.start()
    await all_seen.wait()
    watch.tell(seen - first)


def main(make: Any) -> None:
    """Run what the arguments say: PORT WORK ORDERS SECONDS COUNT."""
    port, name, path, seconds, count = sys.argv[1:]
    orders = [typed(order) for order in read(path)]
    asyncio.run(work(make(port), name, orders, seconds=float(seconds), count=int(count)))
