"""Real workers under `tidings run`, an event that is fatal to them, and what is known of it in the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.killers.program import Hit, counts
from tidings import App, Record, Start, dead

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Call(NamedTuple):
    """One line of the log that every handler writes before it does anything: it outlives the process."""

    handler: str
    key: str
    attempt: int
    pid: int
    at: float


class Scene:
    """A `tidings run` of the program in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._url = f"sqlite:{folder / 'tidings.db'}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, only: str, *arguments: str, workers: int = 2, settings: str = "", supervised: bool = True) -> None:
        """Run the handlers `only` of the program, under a supervisor: one worker too, unless it is not `supervised`."""
        reload = ("--reload",) if workers == 1 and supervised else ()
        (self.folder / "tidings.toml").write_text(settings)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        environment |= {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))), "ONLY": only}
        command = [sys.executable, "-m", "tidings", "run", "tests.killers.program:app", "--log=json"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"--workers={workers}", *reload, *arguments],
                cwd=self.folder,
                env=environment,
                stderr=log,
            )

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        process = self._process
        assert process is not None
        await self.until(lambda: process.poll() is not None)
        return process.returncode

    def end(self) -> int:
        """SIGTERM, and its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill(self) -> None:
        """However it went, nothing is left: workers end with their supervisor."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.terminate()
                self._process.wait(15)
            self._process.kill()
            self._process.wait(10)

    # -- what is known

    def calls(self, handler: str | None = None, key: str | None = None) -> list[Call]:
        """The calls of handlers so far, in order."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = [Call(h, k, int(attempt), int(pid), float(at)) for h, k, attempt, pid, at in map(str.split, lines)]
        return [call for call in calls if handler in (None, call.handler) and key in (None, call.key)]

    def logged(self, part: str) -> list[dict[str, Any]]:
        """The log lines whose message contains `part`."""
        lines = (self.folder / "log").read_text().splitlines(keepends=True)
        logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [line for line in logged if part in line["message"]]

    async def listening(self, count: int) -> None:
        """Until so many workers have been started."""
        await self.until(lambda: len(self.logged("listens")) >= count)

    async def until(self, condition: Callable[[], object]) -> None:
        """Until it holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - a condition of any kind
                await asyncio.sleep(0.02)

    # -- the broker

    def publisher(self) -> App:
        """Who tells the workers, to be opened."""
        return App("publisher", self._url)

    async def publish(self, *hits: Hit) -> None:
        """Tell the workers."""
        async with self.publisher() as app:
            await app.publish(*hits)

    async def count(self, key: str) -> int | None:
        """The row of a key that `with_tx` keeps."""
        async with self.publisher() as app, app.transaction() as transaction:
            return await transaction.get(counts, key)

    @contextlib.asynccontextmanager
    async def letters(self, handler: str) -> AsyncIterator[Callable[[int], Any]]:
        """`await next(count)`: the first dead letters of a handler, once there are so many."""
        async with App("observer", self._url) as app:
            assert app.connection is not None
            view = await app.connection.broker.subscribe([dead.topic_of(f"scene.{handler}")], None, Start.EARLIEST)
            found: list[Record] = []

            async def first(count: int) -> list[Record]:
                async with asyncio.timeout(PATIENCE):
                    while len(found) < count:
                        found.extend(delivery.record for delivery in await view.fetch(100, 1.0))
                return found

            yield first

    async def letter(self, handler: str) -> dict[str, str]:
        """What the only dead letter says."""
        async with self.letters(handler) as first:
            (record,) = await first(1)
        return dict(record.headers)

    async def settled(self, handler: str) -> None:
        """Until none is left."""
        async with asyncio.timeout(PATIENCE):
            while await self.waiting(handler):  # noqa: ASYNC110 - other processes settle them
                await asyncio.sleep(0.1)

    async def waiting(self, handler: str) -> int | None:
        """How many events are not settled."""
        async with App("observer", self._url) as app:
            assert app.connection is not None
            return (await app.connection.broker.lag("hit", f"scene.{handler}")).waiting


@contextlib.asynccontextmanager
async def playing(folder: Path) -> AsyncGenerator[Scene]:
    """A scene, and its end."""
    scene = Scene(folder)
    try:
        yield scene
    finally:
        await asyncio.to_thread(scene.kill)


def now() -> float:
    """On the clock of the calls."""
    return time.monotonic()


KILLED = f"signal {signal.SIGKILL.name}"
