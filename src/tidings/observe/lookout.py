"""What watches a running process: answers probes and scrapes, runs the watchdog, ends a shutdown that does not end.

It has a thread and an event loop of its own, so that it also sees, and says, that the main loop is blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import Self

import msgspec

from tidings.app import App
from tidings.clock import Clock
from tidings.observe import stacks
from tidings.observe.health import Answer, Server, verdict
from tidings.observe.lag import DEADLINE, Lags, lags
from tidings.observe.watchdog import BEAT, Watchdog, end
from tidings.runtime import GAVE_UP, Runtime

log = logging.getLogger("tidings")

MARGIN = 10.0
LEAVE = 2.0


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """How to watch. Seconds: `stall` and `grace` are those of Config. Without a `port` nothing listens.

    `stall_exit` is that of Config as well; `supervised`: somebody starts this process again when it ends.
    """

    stall: float
    stall_exit: bool | None
    grace: float
    supervised: bool = False
    host: str = "127.0.0.1"
    port: int | None = None


class Lookout:
    """Watches the apps of this process while the block lasts: `async with Lookout(apps, watch, stop) as lookout`.

    Not ready before `attach` is called with the runtime in which all handlers listen, nor once `stop` is set. From
    then on the process has the grace time and ten seconds, and is ended if it needs more.
    """

    def __init__(self, apps: Sequence[App], watch: Watch, stop: asyncio.Event) -> None:
        self.port: int | None = None
        self._apps = apps
        self._watch = watch
        self._stop = stop
        self._clock = Clock()
        self._loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(
            apps, self._clock, stall=watch.stall, ends=watch.stall_exit, supervised=watch.supervised, leave=self._quit
        )
        self.hung = False
        self._runtime: Runtime | None = None
        self._aside = asyncio.new_event_loop()
        self._running: asyncio.Task[None] | None = None
        self._listening = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="tidings-lookout", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        self.port = await self._listening
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has died, and said so
            self._aside.call_soon_threadsafe(self._leave)
        await asyncio.to_thread(self._thread.join, LEAVE)

    def attach(self, runtime: Runtime) -> None:
        """All handlers of `runtime` listen."""
        self._runtime = runtime

    def _quit(self) -> None:
        """In its thread: a handler hangs. The others finish what they have begun, then the process ends."""
        self.hung = True
        self._loop.call_soon_threadsafe(self._stop.set)

    @property
    def reasons(self) -> list[str]:
        """Why the process is not ready. Safe from any thread."""
        if self._stop.is_set():
            return ["draining: it takes no more events and finishes those it has"]
        if self._runtime is None:
            return ["starting: not all handlers listen yet"]
        return [*self._dead, *self._watchdog.reasons]

    @property
    def _dead(self) -> list[str]:
        """Workers that have ended without being told to: only a restart brings them back."""
        if self._stop.is_set() or self._runtime is None:
            return []
        return [f"the worker of {task.get_name()} is dead" for task in self._runtime.tasks if task.done()]

    # -- in its thread

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._aside) as runner:
                runner.run(self._main())
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - nobody above a thread could notice
            self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception) -> None:
        """On the main loop: this thread has died."""
        if self._listening.done():
            log.critical("nothing watches this process any more", exc_info=error)
        else:
            self._listening.set_exception(error)

    async def _main(self) -> None:
        self._running = asyncio.current_task()
        server = Server({"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics})
        try:
            port = None if self._watch.port is None else await server.start(self._watch.host, self._watch.port)
            self._loop.call_soon_threadsafe(self._listening.set_result, port)
            await self._until_stopped()
            await self._clock.sleep(self._watch.grace + MARGIN)
        finally:
            await server.close()
        log.critical("the shutdown does not end; the process ends\n%s", stacks.of_all(self._loop))
        end(GAVE_UP)

    async def _until_stopped(self) -> None:
        watching = asyncio.create_task(self._watchdog.watch(), name="tidings-watchdog")
        while not self._stop.is_set():
            await self._clock.sleep(BEAT)
            if watching.done():
                watching.result()
        watching.cancel()

    def _leave(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _healthz(self) -> Answer:
        return verdict("alive", [*self._dead, *self._watchdog.hopeless])

    async def _readyz(self) -> Answer:
        return verdict("ready", self.reasons)

    async def _metrics(self) -> Answer:
        from tidings.observe import metrics  # noqa: PLC0415 - only who is scraped imports prometheus_client

        return Answer(HTTPStatus.OK, metrics.text(self._apps, await self._lags()), metrics.CONTENT_TYPE)

    async def _lags(self) -> Lags:
        asking = asyncio.run_coroutine_threadsafe(lags(self._apps), self._loop)
        try:
            async with asyncio.timeout(2 * DEADLINE):
                return await asyncio.wrap_future(asking)
        except TimeoutError:
            return {}  # the main loop is blocked; unknown is absent
