"""A worker process of the demo: some services of the shop, and a socket to the stage that started it.

It tells its figures, a JSON object a line, and obeys one word: `hold`. It ends in order when the socket does, so that
no worker outlives the stage, whatever that died of.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from typing import Any

import msgspec

from tidings.cli.demo.shop import find
from tidings.runtime import Runtime, serve

TELL_EVERY = 0.2
LOOK_EVERY = 0.001
HELD = 5.0
"""Seconds: between two reports, between two looks at what is in hand, and how long a worker waits to be killed."""
HOLD = b"hold\n"


class Figures(msgspec.Struct, array_like=True):
    """What one handler has done in this process; `latency` is a histogram, see `tidings.meter`."""

    handled: int
    failed: int
    retried: int
    dead: int
    in_hand: int
    latency: list[int]

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.handled + other.handled,
            self.failed + other.failed,
            self.retried + other.retried,
            self.dead + other.dead,
            self.in_hand + other.in_hand,
            [one + another for one, another in zip(self.latency, other.latency, strict=True)],
        )

    def left_behind(self) -> Figures:
        """What stays of it when its process is gone: all but what was in hand."""
        return msgspec.structs.replace(self, in_hand=0)


class Report(msgspec.Struct):
    """What a worker tells. `holding`: it stands still with so much work in hand, and can be killed."""

    handlers: dict[str, Figures]
    holding: int = 0


class Line:
    """The worker's end of the socket."""

    def __init__(self, ours: socket.socket, stop: asyncio.Event) -> None:
        self._socket = ours
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, runtime: Runtime) -> None:
        """All handlers listen: from now on tell and obey."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        for work in (self._tell(runtime), self._obey(runtime)):
            task = asyncio.create_task(work)
            task.add_done_callback(lambda _: self._stop.set())
            self._tasks.append(task)

    async def end(self) -> None:
        """Tell no more. Raises what went wrong, unless that is the end of the stage."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await task

    async def _tell(self, runtime: Runtime) -> None:
        while True:
            self._say(Report(figures(runtime)))
            await self._writer.drain()
            await asyncio.sleep(TELL_EVERY)

    async def _obey(self, runtime: Runtime) -> None:
        while await self._reader.readline() == HOLD:
            holding = await in_hand(runtime)
            self._say(Report(figures(runtime), holding))
            stand_still()

    def _say(self, report: Report) -> None:
        self._writer.write(msgspec.json.encode(report) + b"\n")


async def in_hand(runtime: Runtime) -> int:
    """How many events are lent and not settled, once there are any."""
    while True:
        if holding := sum(worker.meter.in_flight for worker in runtime.workers):
            return holding
        await asyncio.sleep(LOOK_EVERY)


def stand_still() -> None:
    """Keep what is in hand until the kill comes: nothing is settled while the event loop is held up."""
    time.sleep(HELD)


def figures(runtime: Runtime) -> dict[str, Figures]:
    """What each handler has done."""
    return {
        worker.bound.name: Figures(
            worker.meter.handled,
            worker.meter.failed.total(),
            worker.meter.retried,
            worker.meter.dead.total(),
            worker.meter.in_flight,
            worker.meter.latency.counts,
        )
        for worker in runtime.workers
    }


async def work(settings: dict[str, Any], descriptor: int, services: list[str]) -> int:
    """Run the services until the stage is gone; returns the exit code."""
    stop = asyncio.Event()
    line = Line(socket.socket(fileno=descriptor), stop)
    try:
        return await serve(find().run_by(services), ready=line.begin, stop=stop, **settings)
    finally:
        await line.end()


if __name__ == "__main__":
    _, given, number, *names = sys.argv
    sys.exit(asyncio.run(work(msgspec.json.decode(given), int(number), names)))
