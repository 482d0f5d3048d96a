"""tidings as its users write it: an App on the URL of a server. The same for all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

from bench.brokers.client import batch_of
from bench.brokers.count import Counted
from bench.reading import Reading, Watch
from bench.sample import OrderPlaced, orders
from tidings import App, Start
from tidings.worker import Worker

Handle = Callable[[OrderPlaced], Coroutine[Any, Any, None]]
LOOK = 0.01
PATIENCE = 60.0
GRACE = 10.0


async def nothing(event: OrderPlaced) -> None:
    """What the handler does."""


def placed_on(topic: str) -> type[OrderPlaced]:
    """The order of bench.sample, on a topic of its own."""

    class Placed(OrderPlaced, name="order.placed", version="1.0", key="customer", topic=topic):
        pass

    return Placed


def events(kind: type[OrderPlaced], count: int) -> list[OrderPlaced]:
    """Orders of this class; the first 10,000 are distinct."""
    fields = OrderPlaced.__struct_fields__
    return [kind(**{name: getattr(order, name) for name in fields}) for order in orders(count)]


def app_on(url: str, kind: type[OrderPlaced], handle: Handle) -> App:
    """An app whose one handler hears what is published once its group is there, which is the same whatever it does."""
    handle.__annotations__["event"] = kind  # its class is not known before the topic is
    app = App("bench", url)
    app.on(kind, start=Start.LATEST, name="handle")(handle)
    return app


async def declare(url: str, kind: type[OrderPlaced]) -> None:
    """The group is there, and nobody in it."""
    app = app_on(url, kind, nothing)
    async with app:
        await app.start()


async def publish(url: str, some: Sequence[OrderPlaced], count: int) -> Reading:
    """`await app.publish(*thousand_events)`, until there are `count`; what comes before the watch warms up."""
    async with App("bench", url) as app:
        await app.publish(*some)
        watch = Watch()
        for _ in range(len(some), count, len(some)):
            await app.publish(*some)
        return watch.rate(count - len(some))


@contextlib.asynccontextmanager
async def working(app: App) -> AsyncGenerator[Worker]:
    """Its one worker runs, and is drained in the end. Raises what it died of."""
    async with app:
        (worker,) = await app.start()
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.drain(GRACE)
            await asyncio.wait([running])
        running.result()


async def until(worker: Worker, counted: Counted) -> None:
    """Until the worker has settled all of them, looking every few ms. Raises TimeoutError where it stands still."""
    while counted.seen < counted.all:
        before = counted.seen
        async with asyncio.timeout(PATIENCE):
            while worker.meter.handled == before:  # noqa: ASYNC110 - a look costs less than being told each time
                await asyncio.sleep(LOOK)
        counted.note(worker.meter.handled)


async def work(url: str, topic: str, count: int) -> Reading:
    """Publish `count` events, then consume them."""
    kind = placed_on(topic)
    await declare(url, kind)
    published = await publish(url, events(kind, batch_of(count)), count)
    counted = Counted(count)
    async with working(app_on(url, kind, nothing)) as worker:
        await until(worker, counted)
    return counted.reading(published)
