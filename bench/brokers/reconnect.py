"""reconnect: a server is killed, is away for a while, and comes back: until the first event is handled again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from bench.brokers import ours
from bench.reading import Reading
from bench.sample import OrderPlaced
from tidings import App
from tidings.dev import Server
from tidings.errors import BrokerError

DOWN = 4.0
OFTEN = 0.05
PATIENCE = 60.0
WARM = 10


async def by_us(server: Server, topic: str) -> Reading:
    """One app that publishes and handles, all the time; the server has a process and a folder of its own."""
    effects: list[float] = []

    async def note(event: OrderPlaced) -> None:
        effects.append(time.perf_counter())

    kind = ours.placed_on(topic)
    app = ours.app_on(server.url, kind, note)
    async with ours.working(app), _publishing(app, kind):
        await _more(effects, WARM)
        await asyncio.to_thread(server.kill9)
        attempts = await _attempts(server.port)
        seen = len(effects)
        await asyncio.to_thread(server.start)
        up = time.perf_counter()
        await _more(effects, seen + 1)
        return Reading(max(effects[seen] - up, 0.0), more={"attempts": attempts / DOWN})


@contextlib.asynccontextmanager
async def _publishing(app: App, kind: type[OrderPlaced]) -> AsyncGenerator[None]:
    """Events all the time, come what may."""
    (event,) = ours.events(kind, 1)

    async def publish() -> None:
        while True:
            with contextlib.suppress(BrokerError):
                await app.publish(event)
            await asyncio.sleep(OFTEN)

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        publishing.cancel()
        await asyncio.wait([publishing])


async def _more(effects: list[float], count: int) -> None:
    """Until there are so many. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while len(effects) < count:  # noqa: ASYNC110 - a look costs less than being told each time
            await asyncio.sleep(ours.LOOK)


async def _attempts(port: int) -> int:
    """How often somebody tries to connect while the server is away: they reach a listener that hangs up."""
    count = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", port):
        await asyncio.sleep(DOWN)
    return count
