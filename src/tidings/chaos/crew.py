"""The processes of a run: kept alive, and made to suffer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import msgspec

from tidings.chaos.faults import Faults
from tidings.chaos.plan import FREEZE, KILL_PUBLISHER, KILL_WORKER, PUBLISHER, ROLL, STOP, WORKER, Plan
from tidings.chaos.process import Child
from tidings.chaos.site import Site

EVERY = 0.01
"""Seconds between two looks at what other processes have done."""
SOON = 1.0
"""Seconds for which a process that could die at a named place waits for its turn before it begins."""
MOST_CRASHES = 5
KILLS = {WORKER: KILL_WORKER, PUBLISHER: KILL_PUBLISHER}


class Stuck(Exception):
    """The run cannot be brought to its end; the message says why."""


class Crew:
    """Workers and publishers. `check` is called in `until`, and raises Stuck to break the run off.

    A process is started with a place to die at only when another fault is `due`.
    """

    def __init__(
        self,
        plan: Plan,
        site: Site,
        folder: Path,
        *,
        faults: Faults,
        due: Callable[[str], bool],
        check: Callable[[], None],
    ) -> None:
        self.workers = [Child(WORKER, index) for index in range(plan.workers)]
        self.publishers = [Child(PUBLISHER, index) for index in range(plan.publishers)]
        self.faults = faults
        self.crashes: list[str] = []
        self.ending = False
        self._plan = plan
        self._site = site
        self._words = [msgspec.json.encode(plan).decode(), site.url, site.store or ""]
        self._folder = folder
        self._due = due
        self._check = check
        (folder / "ready").touch()

    def ready(self) -> set[int]:
        """The workers that have listened, by process id."""
        return set(map(int, (self._folder / "ready").read_text().split()))

    def listening(self) -> bool:
        """Whether all workers that run do."""
        return {child.pid for child in self.workers if child.running} <= self.ready()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for something that other processes do. Raises Stuck."""
        while not done():
            self._check()
            if len(self.crashes) >= MOST_CRASHES:
                raise Stuck(f"broken off after {MOST_CRASHES} crashes that nobody caused")
            await asyncio.sleep(EVERY)

    # -- alive

    async def keep(self, child: Child) -> None:
        """Start the process again whenever it dies. It is gone when this ends."""
        child.kept = True
        with (self._folder / "log").open("ab") as log:
            while not (child.finished or len(self.crashes) >= MOST_CRASHES):
                child.place = await self._next_place(child)
                if self.ending:
                    break
                words = [*self._words, *([str(child.index)] if child.role == PUBLISHER else [])]
                passage = self.faults.passage(child.place)
                async with child.living(words, self._folder, log, passage=passage) as process, self._draining(child):
                    code = await process.wait()
                self._died(child, code)
        child.kept = False

    async def _next_place(self, child: Child) -> str | None:
        """The place at which the process is to die, if it is soon its turn to."""
        if self._places(child):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SOON):
                    await when(lambda: self.ending or self._due(child.role))
        places = self._places(child)  # another may have taken what there was
        return places.popleft() if places and self._due(child.role) and not self.ending else None

    def _places(self, child: Child) -> deque[str]:
        return self.faults.places(child.role, child.index, [other.place for other in self.workers])

    @contextlib.asynccontextmanager
    async def _draining(self, child: Child) -> AsyncGenerator[None]:
        """Where it is to die while it drains, it has to be told to stop."""
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(self._stop_soon(child)) if child.place == "draining" else None
            yield
            if stopping is not None:
                stopping.cancel()

    async def _stop_soon(self, child: Child) -> None:
        await when(lambda: child.pid in self.ready())
        await asyncio.sleep(self.faults.chance.uniform(0.2, 1.0))
        child.send(signal.SIGTERM)

    def _died(self, child: Child, code: int) -> None:
        cause = child.cause(code)
        child.deaths += 1
        child.finished = cause == "" and child.role == PUBLISHER
        if cause is None:
            self.crashes.append(f"a {child.role} ended by itself with exit code {code}: {self._last_words()}")
        elif not (child.finished or self.ending):
            self.faults.happened(KILLS.get(cause, cause) or STOP, child.pid)
        if child.place is not None and child.place != cause:
            self.faults.put_back(child.place)
        child.place = None

    def _last_words(self) -> str:
        lines = (self._folder / "log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    # -- faults

    def arm(self) -> bool:
        """Have a worker begin again to die at a named place, where nobody is about to. Whether there was one."""
        ready = self.ready()
        for child in self.workers:
            if child.well and child.place is None and child.pid in ready and self._places(child):
                child.send(signal.SIGTERM)
                return True
        return False

    async def suffer(self, kind: str) -> bool:
        """One fault now, on a process that waits for no named place if there is one. Whether it has happened."""
        if kind == ROLL:
            await self._roll()
            return True
        if kind in self._site.faults:
            await self._site.faults[kind]()
            self.faults.happened(kind, 0)
            return True
        well = [child for child in (self.publishers if kind == KILL_PUBLISHER else self.workers) if child.well]
        if kind == STOP:
            well = [child for child in well if child.pid in self.ready()]
        spare = [child for child in well if child.place is None] or well
        if not spare:
            return False
        child = self.faults.chance.choice(spare)
        if kind == FREEZE:
            await self._freeze(child)
            return True
        missing, deaths = self.faults.missing[kind], child.deaths
        child.send(signal.SIGTERM if kind == STOP else signal.SIGKILL)
        await self.until(lambda: child.deaths > deaths)
        return self.faults.missing[kind] < missing  # it may have died of something else

    async def _freeze(self, child: Child) -> None:
        """For so long that the others take it for dead."""
        self.faults.happened(FREEZE, child.pid)
        child.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._plan.frozen_for)
        finally:
            child.thaw()

    async def _roll(self) -> None:
        """Tell one worker after the other to stop, each when that before it listens again."""
        for child in self.workers:
            await self._listening(child, after=0)
            before = child.pid
            child.send(signal.SIGTERM)
            await self._listening(child, after=before)
        self.faults.happened(ROLL, 0)

    async def _listening(self, child: Child, after: int) -> None:
        """Until another process than the one `after` listens there."""
        await self.until(lambda: child.well and child.pid != after and child.pid in self.ready())

    # -- the end

    async def stop(self) -> None:
        """All workers end in order, and say so by their exit code. Raises Stuck."""
        self.ending = True
        await self.until(self.listening)
        for child in self.workers:
            child.send(signal.SIGTERM)
        await self.until(lambda: not any(child.kept for child in self.workers))


async def when(done: Callable[[], bool]) -> None:
    """Wait for something that other processes do, until cancelled."""
    while not done():  # noqa: ASYNC110 - what other processes do sets no event
        await asyncio.sleep(EVERY)
