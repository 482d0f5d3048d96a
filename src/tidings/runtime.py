"""Several apps in one process: one connection for each broker, all workers, an orderly end.

`serve` is what `tidings run` calls: it ends on SIGTERM or SIGINT, drains within the grace time, and says truthfully
whether everything that was begun has been settled.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from tidings.app import App
from tidings.clock import Clock
from tidings.config import Config, load
from tidings.connect import Connection, connect
from tidings.errors import Closed, Unreachable
from tidings.worker import Worker, join_all

log = logging.getLogger("tidings")

WAIT = 1.0
"""Seconds between two looks for a broker that is not there, on average."""
DRAINED, FAILED, GAVE_UP = 0, 1, 3
"""Exit codes: all that was begun is settled; something died; the grace time was over and the rest is handed back."""


class Runtime:
    """Runs the handlers of several apps. `settings` win over those of the apps.

    `connecting` makes the connection from the settings, where it is to be another than what the URLs name.
    """

    def __init__(
        self, apps: Sequence[App], *, connecting: Callable[[Config, Clock], Connection] = connect, **settings: Any
    ) -> None:
        self.apps = apps
        self._connecting = connecting
        self.workers: list[Worker] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._settings = settings
        self._connections: dict[tuple[str, str | None], Connection] = {}

    def config_of(self, app: App) -> Config:
        """The settings that this app runs with."""
        return load(**{**app.settings, **{name: value for name, value in self._settings.items() if value is not None}})

    async def open(self) -> None:
        """Connect and join every handler's group when the servers are there. Raises a DefinitionError or BrokerError.

        Tries again with full jitter, about once a second; with `fail_fast` it raises Unreachable at once.
        """
        while True:
            try:
                await self._open()
            except Unreachable as error:
                await self.close()
                self.workers.clear()
                if any(self.config_of(app).fail_fast for app in self.apps):
                    raise
                log.warning("waits for its broker: %s", error)
                await self.apps[0].clock.sleep(WAIT * (0.5 + self.apps[0].clock.random()))
            else:
                return

    async def _open(self) -> None:
        configs = [self.config_of(app) for app in self.apps]
        for app, config in zip(self.apps, configs, strict=True):
            at = (config.broker, config.store)
            if at not in self._connections:
                connection = self._connecting(_shared(config, configs), app.clock)
                await connection.open()
                self._connections[at] = connection
            await app.open(self._connections[at], config)
        for app in self.apps:
            self.workers += await app.staff()
        await join_all(self.workers)

    def start(self) -> None:
        """Begin to work."""
        self.tasks = [asyncio.create_task(worker.run(), name=worker.bound.name) for worker in self.workers]

    async def until(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Raises what a worker died of."""
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait([stopping, *self.tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        for task in self.tasks:
            if task.done():
                task.result()
                raise Closed(f"the worker of {task.get_name()} ended by itself")

    async def drain(self, grace: float) -> bool:
        """Finish what was begun, for at most `grace` seconds, hand back the rest. Whether nothing was given up."""
        drained = await asyncio.gather(*(worker.drain(grace) for worker in self.workers))
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=1.0)
        return all(drained)

    async def close(self) -> None:
        """Close the apps and the connections."""
        for app in self.apps:
            await app.close()
        for connection in self._connections.values():
            await connection.close()
        self._connections.clear()


def _shared(config: Config, configs: Sequence[Config]) -> Config:
    """For the connection of all that name the same: it takes bodies as large as the most generous of them allows."""
    limits = [each.body_limit for each in configs if (each.broker, each.store) == (config.broker, config.store)]
    return msgspec.structs.replace(config, body_limit=max(limits))


async def _unless(stop: asyncio.Event, doing: Coroutine[Any, Any, None]) -> bool:
    """Do it, unless it is told to stop before; whether it is done."""
    task, stopping = asyncio.create_task(doing, name="open"), asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    finally:
        stopping.cancel()
        task.cancel()
        await asyncio.wait([task])


async def serve(
    apps: Sequence[App],
    *,
    ready: Callable[[Runtime], Any] | None = None,
    stop: asyncio.Event | None = None,
    **settings: Any,
) -> int:
    """Run apps until SIGTERM, SIGINT or `stop`; returns the exit code. `ready(runtime)` is awaited when all listen."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    runtime = Runtime(apps, **settings)
    try:
        if not await _unless(stop, runtime.open()):
            return DRAINED
        runtime.start()
        if ready is not None:
            await ready(runtime)
        await runtime.until(stop)
        grace = max(runtime.config_of(app).grace for app in apps)
        return DRAINED if await runtime.drain(grace) else GAVE_UP
    finally:
        await runtime.close()
