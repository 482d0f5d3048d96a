"""Runs the processes of a plan, makes them suffer, starts them again, and waits until nothing is left to do.

A process dies at a named place that it was started with, or is killed at a random moment. The events are spread over
the faults: each fault lets more of them through, and the last ones wait until every kind has happened. A slow machine
makes a run longer; only one in which nothing moves any more is broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NamedTuple

from tidings.chaos.crew import Crew, Stuck
from tidings.chaos.evidence import Evidence, Peaks, collect
from tidings.chaos.faults import Faults
from tidings.chaos.journal import Follower
from tidings.chaos.ledger import Report, judge
from tidings.chaos.plan import KILL_PUBLISHER, KILL_WORKER, PLACES, PUBLISHER, WORKER, Plan
from tidings.chaos.site import Look, Site
from tidings.errors import BrokerError, ConfigError, TidingsError

STALL, MOST_STALLS = 2.0, 8
"""Seconds in which nothing moves, after which something more is done; each time more of them, up to so many times."""
LOOK_EVERY, PACE_EVERY = 0.1, 0.02
RESTS, LONGEST_REST = 10, 2.0
"""Looking takes at most one part in so many of the time, unless that were too seldom to see that something moves."""
EFFECTS_AN_EVENT = 4
"""More effects than so many are no progress."""


class RunLost(TidingsError):
    """The folder of a run was taken away while it went on."""


class Progress(NamedTuple):
    """How far a run is, for whoever watches."""

    events: int
    published: int
    pending: int
    faults: int
    planned: int
    missing: list[str]


class Driver:
    """One run in a folder of its own, which has to be there until the end. `tell` hears of it all the time."""

    def __init__(self, plan: Plan, site: Site, folder: Path, tell: Callable[[Progress], None]) -> None:
        self.plan = plan
        self.site = site
        self.folder = folder
        self.faults = Faults(plan, PLACES | site.places)
        self.crew = Crew(plan, site, folder, faults=self.faults, due=self._due, check=self._check)
        self.journals = Follower([folder / f"journal-{index}" for index in range(plan.publishers)])
        self.peaks = Peaks()
        self._tell = tell
        self._began = self._moved = time.monotonic()
        self._looked = 0.0
        self._look = Look(0, 0, None, None)
        self._far: tuple[int, ...] = ()
        self._least_pending = 0
        self._pushes = 0

    async def run(self) -> Evidence:
        """Everything from the first start to the last look; no process and no task is left. Raises RunLost."""
        self._allow(0)
        (self.folder / "starts").touch()
        problems: list[str] = []
        drained = None
        try:
            async with self._working() as publish:
                try:
                    drained = await self._perform(publish)
                except Stuck as stuck:
                    problems.append(str(stuck))
        except* (OSError, BrokerError) as group:
            if not self.folder.is_dir():
                raise RunLost(f"The folder of the run, {self.folder}, was removed while the run went on.") from None
            raise group.exceptions[0] from None
        seconds = time.monotonic() - self._began
        evidence = await asyncio.to_thread(collect, self.plan, self.folder, self.site)
        evidence.faults, evidence.peaks, evidence.drained = self.faults.fired, self.peaks, drained
        evidence.problems, evidence.seconds = [*self.crew.crashes, *problems], seconds
        return evidence

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncGenerator[Callable[[], None]]:
        """Workers work while the block lasts, and publishers from when what it gives is called."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._watch()), group.create_task(self._pace())]
            tasks += [group.create_task(self.crew.keep(child)) for child in self.crew.workers]
            publishers = self.crew.publishers
            try:
                yield lambda: tasks.extend(group.create_task(self.crew.keep(child)) for child in publishers)
            finally:
                self.crew.ending = True
                for task in tasks:
                    task.cancel()

    async def _perform(self, publish: Callable[[], None]) -> float:
        """Until all is published and settled; returns the seconds from the one to the other. Raises Stuck."""
        crew = self.crew
        await crew.until(lambda: bool(crew.ready()))
        publish()
        await self._fault_all()
        await crew.until(lambda: all(child.finished for child in crew.publishers))
        published = time.monotonic()
        await crew.until(lambda: self._looked > published and not self._look.pending)
        drained = self._looked - published
        await crew.stop()
        return drained

    # -- faults

    async def _fault_all(self) -> None:
        """Let faults happen at random until every planned one has, also those at named places."""
        faults, chance = self.faults, self.faults.chance
        while faults.missing and not all(child.finished for child in self.crew.publishers):
            self._check()
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            if not self._due() or self.crew.arm():
                continue
            if faults.at_random:
                kind = faults.at_random.popleft()
                if not await self.crew.suffer(kind):
                    faults.at_random.append(kind)
            elif faults.missing and self._idle():
                await self._push()

    async def _push(self) -> None:
        """What is missing waits for more events, or for one more death; whoever recovers from that needs events too."""
        self._pushes += 1
        await self.crew.suffer(KILL_PUBLISHER if self.faults.publishing else KILL_WORKER)
        self.faults.let_more_through()

    def _idle(self) -> bool:
        """Whether everybody listens and nothing is left to do."""
        since = max([self._moved, *(fault.at for fault in self.faults.fired[-1:])])
        patience = STALL * min(1 + self._pushes, MOST_STALLS)  # one too early takes what a later one needs
        return time.monotonic() - since > patience and not self._look.pending and self.crew.listening()

    def _due(self, role: str = WORKER) -> bool:
        due = self.faults.publisher_due if role == PUBLISHER else self.faults.due
        return due(self.journals.attempted)

    async def _pace(self) -> None:
        """Say how many events may be published by now: no more at a time than a backlog is to hold."""
        allowed = 0
        while True:
            if self._look.pending <= self.plan.backlog:
                allowed = max(allowed, min(self.faults.allowed, self.journals.attempted + self.plan.backlog // 4 + 1))
                self._allow(allowed)
            await asyncio.sleep(PACE_EVERY)

    def _allow(self, count: int) -> None:
        temporary = self.folder / "pace.new"
        temporary.write_text(str(count))
        temporary.replace(self.folder / "pace")

    # -- watching

    async def _watch(self) -> None:
        """Look how far it is, again and again."""
        while True:
            began = time.monotonic()
            look = await asyncio.to_thread(self._look_closely)
            self._look, self._looked = look, began
            self._notice(look)
            missing = self.faults.missing
            self._tell(Progress(
                self.plan.events, min(self.journals.attempted, self.plan.events), look.pending,
                self.faults.planned - missing.total(), self.faults.planned, sorted(missing),
            ))  # fmt: skip
            await asyncio.sleep(min(max(LOOK_EVERY, RESTS * (time.monotonic() - began)), LONGEST_REST))

    def _look_closely(self) -> Look:
        self.journals.look()
        for child in self.crew.workers:
            child.look()
        return self.site.look()

    def _notice(self, look: Look) -> None:
        """Remember the peaks, and when something last moved."""
        memory = [child.memory_peak for child in self.crew.workers if child.memory_peak]
        self.peaks.see(max(memory, default=None), look.wal, look.database)
        self._least_pending = look.pending if self.faults.missing else min(self._least_pending, look.pending)
        far = (
            -self.faults.missing.total(),
            min(self.journals.attempted, self.plan.events),
            min(look.effects, EFFECTS_AN_EVENT * self.plan.events),
            -self._least_pending,
        )
        if far != self._far:
            self._far, self._moved = far, time.monotonic()

    def _check(self) -> None:
        """Raise Stuck where nothing moves any more, or the time is over."""
        now = time.monotonic()
        patience = self.plan.patience + self.plan.frozen_for  # nothing moves while those stand still that hold it all
        if now - self._moved > patience:
            missing = ", ".join(sorted(self.faults.missing)) or "no fault"
            raise Stuck(
                f"broken off: nothing has moved for {patience:g} s, with {self._look.pending} deliveries "
                f"pending; still to happen: {missing}"
            )
        if self.plan.time_limit is not None and now - self._began > self.plan.time_limit:
            raise Stuck(f"broken off: the time limit of {self.plan.time_limit:g} s is over")


async def run(plan: Plan, site: Site, folder: Path, tell: Callable[[Progress], None] = lambda _: None) -> Report:
    """One run of a plan at a site, judged. The folder is empty at first, and the caller's to remove when this returns.

    Raises ConfigError where there is no broker that could be used, RunLost where the folder was removed.
    """
    try:
        await site.prepare()
    except BrokerError as error:
        raise ConfigError(f"A run cannot begin at {site.url}: {error}") from error
    try:
        evidence = await Driver(plan, site, folder, tell).run()
        return await asyncio.to_thread(judge, plan, evidence, PLACES | site.places)
    finally:
        site.close()
