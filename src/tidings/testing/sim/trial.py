"""One run of a plan: from a seed, or from the choices of an earlier run."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidings.app import App
from tidings.testing.sim.faults import Faults
from tidings.testing.sim.files import Files
from tidings.testing.sim.simulation import Simulation
from tidings.testing.sim.tape import Choices, Place, Tape
from tidings.testing.sim.verdict import judge
from tidings.testing.sim.world import Moment

SWEEP = 20
"""Runs between two collections of what they have left."""
Scenario = Callable[[Simulation], Awaitable[Any]]


class Invariant(msgspec.Struct, frozen=True):
    """A function that raises AssertionError where something does not hold: at the end, or after every commit."""

    check: Callable[[Simulation], Any]
    after: str


class Plan(msgspec.Struct, frozen=True):
    """What is simulated: apps, what is published to them, what must hold, what may go wrong.

    `tables` is SQL that makes the services' own tables, before the first run.
    """

    apps: Sequence[App]
    scenario: Scenario
    invariants: Sequence[Invariant] = ()
    faults: Faults = Faults()
    processes: int = 2
    tables: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What came of a run. `choices` are those that were not 0; `error` is None where all held."""

    seed: int
    choices: Choices
    error: BaseException | None
    timeline: list[Moment]
    steps: int
    rates: Mapping[str, float]
    trace: list[tuple[int, str]]


class Stage:
    """Where runs of a plan take place: a folder in memory, and a file to begin with in which all is declared."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
        self._folder = Path(tempfile.mkdtemp(prefix="tidings-", dir=memory if os.access(memory, os.W_OK) else None))
        self._files = Files(self._folder)
        self._runs = 0
        self._prepare()

    def close(self) -> None:
        """Remove it."""
        gc.unfreeze()
        self._files.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self) -> None:
        """Let a process declare everything and leave."""
        tape = Tape(0, {})
        with _silence(), _uncollected(collect=True):
            world = Simulation(self.plan.apps, self._files, tape, faults=Faults.none(), seed=0, processes=1)
            world.prepare()
        self._files.prepared(self.plan.tables)
        self._bounds = world.bounds
        gc.freeze()  # nothing of the program is looked at again when what runs have left is collected

    def play(
        self, seed: int, choices: Mapping[Place, int] | None = None, *, rates: Mapping[str, float] | None = None,
        trace: bool = False,
    ) -> Outcome:  # fmt: skip
        """Run it: by chance, or as the choices of an earlier run with this seed and these rates say."""
        rates = self.plan.faults.swarm(seed) if rates is None else rates
        self._runs += 1
        with _silence(), _uncollected(collect=self._runs % SWEEP == 0):
            return self._play(seed, Tape(seed, rates, choices), trace)

    def _play(self, seed: int, tape: Tape, trace: bool) -> Outcome:
        """In a function of its own, at whose end nobody knows the world any more."""
        self._files.restore()
        plan = self.plan
        world = Simulation(plan.apps, self._files, tape, faults=plan.faults, seed=seed, processes=plan.processes)
        world.bounds = self._bounds
        world.loop.trace = [] if trace else None
        world.on_commit = self._watch(world)
        error: BaseException | None = None
        try:
            world.run(plan.scenario, self._judge)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is what came of the run
            error = raised
        return Outcome(seed, tape.played, error, world.timeline, world.loop.steps, tape.rates, world.loop.trace or [])

    def _watch(self, world: Simulation) -> Callable[[], None] | None:
        checks = [invariant.check for invariant in self.plan.invariants if invariant.after == "commit"]
        if not checks:
            return None

        def watch() -> None:
            for check in checks:
                check(world)

        return watch

    async def _judge(self, world: Simulation) -> None:
        await judge(world)
        for invariant in self.plan.invariants:
            result = invariant.check(world)
            if isinstance(result, Awaitable):
                await result


@contextlib.contextmanager
def _uncollected(*, collect: bool) -> Generator[None]:
    """Nearly all of a run is garbage at its end, and nothing of it before: then is the time to look, now and then."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collect:
            gc.collect()
        if before:
            gc.enable()


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """What the engine logs about faults that were meant is no news."""
    log = logging.getLogger("tidings")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
