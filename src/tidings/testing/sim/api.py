"""How a program simulates: `@simulate` on a scenario makes a test of it."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidings.app import App
from tidings.errors import ConfigError
from tidings.testing.sim.faults import Faults
from tidings.testing.sim.report import Replay, replay, token, told
from tidings.testing.sim.shrink import shrunk
from tidings.testing.sim.simulation import Simulation
from tidings.testing.sim.tape import Place
from tidings.testing.sim.trial import Invariant, Outcome, Plan, Scenario, Stage

FAILURES = Path(".tidings/failures")
"""Where tokens of runs that failed are kept, in the working folder: they are played first the next time."""


class SimulationFailed(AssertionError):
    """A run in which something did not hold; its text is the report. `token` plays it again."""

    def __init__(self, report: str, token: str) -> None:
        super().__init__(report)
        self.token = token


class Tally(msgspec.Struct):
    """How many runs there were, how many steps they took, and how often each label was chosen."""

    runs: int = 0
    steps: int = 0
    faults: dict[str, int] = {}

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        self.runs += 1
        self.steps += outcome.steps
        for label, _ in outcome.choices:
            self.faults[label] = self.faults.get(label, 0) + 1

    def join(self, other: Tally) -> None:
        """Count the runs of another one too."""
        self.runs += other.runs
        self.steps += other.steps
        for label, times in other.faults.items():
            self.faults[label] = self.faults.get(label, 0) + times


def invariant(*, after: str = "settle") -> Callable[[Callable[[Simulation], Any]], Callable[[Simulation], Any]]:
    """Mark a function of the module as something that must hold in each of its simulations.

    It is given the Simulation and raises AssertionError where it does not. `after="settle"`: at the end, when all is
    settled (it may be `async`); `after="commit"`: after each commit of any process.
    """
    if after not in ("settle", "commit"):
        raise ConfigError(f"invariant(after={after!r}): write 'settle' or 'commit'.")

    def mark(check: Callable[[Simulation], Any]) -> Callable[[Simulation], Any]:
        check.__invariant__ = after  # type: ignore[attr-defined]  # found in the module by simulate
        return check

    return mark


def invariants(names: Mapping[str, Any]) -> list[Invariant]:
    """Those that are marked in a module's names."""
    marked = [(value, getattr(value, "__invariant__", None)) for value in names.values() if inspect.isfunction(value)]
    return [Invariant(value, after) for value, after in marked if after is not None]


def simulate(
    *apps: App, seeds: int = 100, faults: Faults | None = None, processes: int = 2, tables: str = ""
) -> Callable[[Scenario], Callable[[], Tally]]:
    """Make a test of `async def scenario(simulation)`: played once for each seed, each time with other faults.

    The apps run as real ones do, `processes` times, on one file, in virtual time. The scenario publishes; then all
    faults end, everything must be settled, and these must hold: nothing lost, doubled, made up or out of order, and
    every `@invariant` of the module. Raises SimulationFailed for the first run that fails, shrunk to what matters. A
    run that failed is kept in `.tidings/failures` and played first until it does not fail any more.

    `tables` is SQL that makes the tables of the services' own, once: a run that has to make them takes longer.
    """
    if not apps:
        raise ConfigError("simulate() needs the apps: @simulate(orders.app, payment.app).")

    def make(scenario: Scenario) -> Callable[[], Tally]:
        def plan() -> Plan:  # when it runs: the invariants may stand below the scenario
            return Plan(apps, scenario, invariants(scenario.__globals__), faults or Faults(), processes, tables)

        def test() -> Tally:
            return run(plan(), range(seeds), keep=FAILURES / f"{scenario.__module__}.{scenario.__name__}")

        functools.update_wrapper(test, scenario, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look for fixtures named as its parameters
        test.__simulation__ = plan  # type: ignore[attr-defined]  # see plan_of
        return test

    return make


def plan_of(test: Any) -> Plan | None:
    """What a function made by `simulate` plays; None for anything else."""
    make = getattr(test, "__simulation__", None)
    return None if make is None else make()


def run(
    plan: Plan, seeds: Sequence[int], *, keep: Path | None = None, progress: Callable[[Tally], None] | None = None
) -> Tally:
    """Play all seeds, after what is kept. Raises SimulationFailed."""
    stage, tally = Stage(plan), Tally()
    try:
        for outcome in itertools.chain(_kept(stage, keep), map(stage.play, seeds)):
            tally.add(outcome)
            if outcome.error is not None:
                raise _failed(stage, outcome, keep)
            if progress is not None:
                progress(tally)
        return tally
    finally:
        stage.close()


def again(plan: Plan, text: str) -> Outcome:
    """Play the run of a token."""
    stage = Stage(plan)
    try:
        return _play(stage, replay(text))
    finally:
        stage.close()


def _play(stage: Stage, replay: Replay) -> Outcome:
    return stage.play(replay.seed, replay.played, rates=replay.rates)


def _kept(stage: Stage, keep: Path | None) -> Iterator[Outcome]:
    """What has failed before; forgotten where it does not any more, or is of another version."""
    if keep is None or not keep.exists():
        return
    for text in keep.read_text().split():
        try:
            outcome = _play(stage, replay(text))
        except ConfigError:
            continue
        yield outcome
    keep.unlink()


def _failed(stage: Stage, outcome: Outcome, keep: Path | None) -> SimulationFailed:
    def play(choices: Mapping[Place, int]) -> Outcome:
        return stage.play(outcome.seed, choices, rates=outcome.rates)

    least = shrunk(outcome, play)
    text = token(least)
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(text + "\n")
    failed = SimulationFailed(told(least, found=outcome), text)
    failed.__cause__ = least.error
    return failed
