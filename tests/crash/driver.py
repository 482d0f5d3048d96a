"""Runs the processes of a plan, kills them, starts them again, and waits until nothing is left to do.

A process dies at a named place that it was started with, or is killed at a random moment. The events are spread over
the faults: each fault lets more of them through, and the last ones wait until every kind has happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from tests.crash.evidence import Evidence, Fault, collect, pending
from tests.crash.plan import FREQUENT, FROZEN, PUBLISHER, PUBLISHING, RARE, STOPPED, WORKER, Plan
from tests.crash.process import Child
from tests.crash.service import EFFECTS
from tests.crash.worker import LEASE
from tidings.embedded.database import Database

PLACES = RARE | FREQUENT | PUBLISHING
AT_RANDOM = (WORKER, PUBLISHER, FROZEN, STOPPED)
RESERVE = 0.1
"""The share of the events that waits until every planned fault has happened."""
STALL = 2.0
"""Seconds without a fault, after which one more worker is killed: the rare places wait for what others do."""
MOST_CRASHES = 5
READY_WAIT, STOP_WAIT = 20.0, 15.0


class Driver:
    """One run in a folder of its own. `tell` is given a line now and then."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.folder = folder
        self.tell = tell
        self.chance = random.Random(plan.seed)
        self.workers = [Child(WORKER, index) for index in range(plan.workers)]
        self.publishers = [Child(PUBLISHER, index) for index in range(plan.publishers)]
        self.missing = plan.faults()
        self.planned = self.missing.total()
        self.at_random = self._shuffled(AT_RANDOM)
        self.rare, self.frequent, self.publishing = map(self._shuffled, (RARE, FREQUENT, PUBLISHING))
        self.faults: list[Fault] = []
        self.crashes: list[str] = []
        self.ending = False
        self.began = time.monotonic()
        self._log = (folder / "log").open("ab")

    def _shuffled(self, kinds: tuple[str, ...] | dict[str, int]) -> deque[str]:
        planned = [kind for kind in self.missing.elements() if kind in kinds]
        self.chance.shuffle(planned)
        return deque(planned)

    # -- the run

    async def run(self) -> Evidence:
        """Everything from the first start to the last look."""
        self._prepare()
        keepers = [asyncio.create_task(self._keep(child)) for child in self.workers]
        others = [asyncio.create_task(run()) for run in (self._pace, self._report)]
        drained = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.plan.seconds):
                    await self._until(lambda: bool(self._ready()), READY_WAIT)
                    keepers += [asyncio.create_task(self._keep(child)) for child in self.publishers]
                    drained = await self._work_off()
            await self._stop()
        finally:
            self.ending = True
            for child in (*self.workers, *self.publishers):
                child.signal(signal.SIGKILL)
            await asyncio.gather(*keepers)
            for task in others:
                task.cancel()
            self._log.close()
        evidence = collect(self.plan, self.folder)
        evidence.faults, evidence.crashes, evidence.drained = self.faults, self.crashes, drained
        evidence.seconds = time.monotonic() - self.began
        return evidence

    def _prepare(self) -> None:
        database = Database(self.folder / "tidings.db")
        database.open()
        with contextlib.closing(sqlite3.connect(database.path)) as connection:
            connection.execute(EFFECTS)
        database.close()
        self._allow(0)
        for name in ("ready", "starts"):
            (self.folder / name).touch()

    async def _work_off(self) -> float | None:
        """Until all is published and settled; returns the seconds from the one to the other, None where that failed."""
        await self._fault_all()
        await self._until(lambda: self._hopeless or all(child.finished for child in self.publishers))
        published = time.monotonic()
        await self._until(lambda: self._hopeless or not pending(self.folder / "tidings.db"), pause=0.05)
        return None if self._hopeless else time.monotonic() - published

    @property
    def _hopeless(self) -> bool:
        return len(self.crashes) >= MOST_CRASHES

    async def _until(self, done: Callable[[], bool], seconds: float | None = None, *, pause: float = 0.01) -> None:
        async with asyncio.timeout(seconds):
            while not done():  # noqa: ASYNC110 - what other processes do sets no event
                await asyncio.sleep(pause)

    async def _stop(self) -> None:
        """All workers end in order, and say so by their exit code."""
        self.ending = True
        try:
            await self._until(lambda: {child.pid for child in self.workers if child.well} <= self._ready(), READY_WAIT)
            for child in self.workers:
                child.signal(signal.SIGTERM)
            await self._until(lambda: not any(child.running for child in self.workers), STOP_WAIT)
        except TimeoutError:
            self.crashes.append(f"a worker was not ready, or did not end within {STOP_WAIT:g} s")

    def _ready(self) -> set[int]:
        return set(map(int, (self.folder / "ready").read_text().split()))

    # -- processes

    async def _keep(self, child: Child) -> None:
        """Start the process again whenever it dies."""
        while not (self.ending or child.finished or self._hopeless):
            child.point = self._next_point(child)
            passage = self.chance.randint(1, PLACES.get(child.point or "", 1))
            await child.start(self.plan, self.folder, log=self._log, passage=passage)
            stopping = asyncio.create_task(self._stop_soon(child)) if child.point == "draining" else None
            code = await child.wait()
            if stopping is not None:
                stopping.cancel()
            self._died(child, code)

    def _next_point(self, child: Child) -> str | None:
        """Where the process is to die. The first worker is kept for the rare places; of the others, one at a time."""
        if child.role == PUBLISHER:
            points = self.publishing
        elif (child.index == 0 and self.rare) or self.plan.workers == 1:
            points = self.rare or self.frequent
        elif any(other.point in FREQUENT for other in self.workers if other.running):
            return None
        else:
            points = self.frequent
        return points.popleft() if points and not self.ending else None

    async def _stop_soon(self, child: Child) -> None:
        await self._until(lambda: child.pid in self._ready())
        await asyncio.sleep(self.chance.uniform(0.2, 1.0))
        child.signal(signal.SIGTERM)

    def _died(self, child: Child, code: int) -> None:
        cause = child.cause(code)
        if cause is None:
            self.crashes.append(f"a {child.role} ended by itself with exit code {code} (see the log)")
        elif cause or child.role == WORKER:
            self._fired(cause or STOPPED, child.pid)
        child.finished = cause == "" and child.role == PUBLISHER
        if child.point is not None and child.point != cause:
            points = self.publishing if child.role == PUBLISHER else self.rare if child.point in RARE else self.frequent
            points.append(child.point)
        child.point = None

    def _fired(self, kind: str, pid: int) -> None:
        if not self.ending:
            self.faults.append(Fault(kind, pid, time.monotonic()))
            self.missing = self.missing - Counter([kind])

    # -- faults

    async def _fault_all(self) -> None:
        """Let faults happen at random until every planned one has, also those at named places."""
        while self.missing and not self._hopeless and not any(child.finished for child in self.publishers):
            await asyncio.sleep(self.chance.uniform(0.5, 2.0))
            if self.at_random:
                kind = self.at_random.popleft()
                if not await self._fault(kind):
                    self.at_random.append(kind)
            elif self.missing and self.faults and time.monotonic() - self.faults[-1].at > STALL:
                await self._fault(WORKER)

    async def _fault(self, kind: str) -> bool:
        """One fault now, on a process that waits for no named place if there is one. Whether there was any."""
        well = [child for child in (self.publishers if kind == PUBLISHER else self.workers) if child.well]
        if kind == STOPPED:
            well = [child for child in well if child.pid in self._ready()]
        spare = [child for child in well if child.point is None] or well
        if not spare:
            return False
        child = self.chance.choice(spare)
        if kind == FROZEN:
            await self._freeze(child)
        else:
            child.signal(signal.SIGTERM if kind == STOPPED else signal.SIGKILL)
        return True

    async def _freeze(self, child: Child) -> None:
        """For so long that the others take it for dead."""
        self._fired(FROZEN, child.pid)
        child.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(1.5 * LEASE)
        finally:
            child.thaw()

    async def _pace(self) -> None:
        """Say how many events may be published by now."""
        while True:
            share = min((len(self.faults) + 1) / (self.planned + 1), 1 - RESERVE) if self.missing else 1.0
            self._allow(int(self.plan.events * share))
            await asyncio.sleep(0.02)

    def _allow(self, count: int) -> None:
        temporary = self.folder / "pace.new"
        temporary.write_text(str(count))
        temporary.replace(self.folder / "pace")

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            left = f"waiting for {', '.join(sorted(self.missing))}" if self.missing else "working off the rest"
            self.tell(f"{time.monotonic() - self.began:.0f} s: {len(self.faults)} of {self.planned} faults, {left}")


def run(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Evidence:
    """One run of a plan in this folder."""
    return asyncio.run(Driver(plan, folder, tell).run())
