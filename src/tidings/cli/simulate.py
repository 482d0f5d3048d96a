"""`tidings simulate`: play apps by the thousand, in virtual time and under faults."""

from __future__ import annotations

import importlib
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from tidings.cli.output import counted, emit, plain, progress
from tidings.cli.target import json_option, load_apps
from tidings.testing.sim import sample
from tidings.testing.sim.api import SimulationFailed, Tally, again, plan_of, run
from tidings.testing.sim.crew import share_out
from tidings.testing.sim.faults import KINDS, Faults
from tidings.testing.sim.report import told
from tidings.testing.sim.trial import Plan


@click.command()
@click.argument("target")
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="How many runs.")
@click.option("--first", type=click.IntRange(0), default=0, help="The first seed.", show_default=True)
@click.option("--faults", help=f"Only these kinds, with commas: {', '.join(KINDS)}; or none.")
@click.option("--processes", type=click.IntRange(1, 8), default=2, show_default=True, help="Worker processes at once.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="So many seeds at a time.")
@click.option("--replay", "token", metavar="TOKEN", help="Play one run again that has failed.")
@json_option
def simulate(target: str, token: str | None, as_json: bool, **given: Any) -> None:
    """Play the apps of TARGET, such as shop:apps, in simulated worlds where things go wrong.

    TARGET is an App, a list of them, or a scenario made with @simulate. Each seed is another day: the same workers,
    broker and file as always, in virtual time, with processes that are killed or stand still, disks that are full or
    slow, clocks that jump. Without a scenario, events are made up from their types. Exit code 1 where something was
    lost, doubled, made up or out of order: the report says what, the least that leads to it, and a token to replay it.
    """
    make = partial(_plan, target, given["faults"], given["processes"])
    plan = make()
    if token is not None:
        _replay(plan, token, as_json)
        return
    seeds = range(given["first"], given["first"] + given["seeds"])
    began = time.monotonic()
    try:
        with progress("simulating", len(seeds), quiet=as_json) as advance:
            if given["workers"] > 1:
                tally = share_out(make, seeds, workers=given["workers"], progress=advance)
            else:
                tally = run(plan, seeds, progress=lambda _: advance(1))
    except SimulationFailed as failed:
        _fail(failed, as_json)
    else:
        _say(tally, time.monotonic() - began, as_json)


def _plan(target: str, faults: str | None, processes: int) -> Plan:
    kinds = None if faults is None else Faults.none() if faults == "none" else Faults.only(*faults.split(","))
    module, _, name = target.partition(":")
    if module.replace(".", "").isidentifier() and name:
        found = getattr(_imported(module), name, None)
        if (plan := plan_of(found)) is not None:
            return plan if kinds is None else msgspec.structs.replace(plan, faults=kinds)
    return Plan(load_apps(target), sample.scenario, (), kinds or Faults(), processes)


def _imported(module: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None  # `load_apps` says what is missing


def _replay(plan: Plan, token: str, as_json: bool) -> None:
    outcome = again(plan, token)
    if outcome.error is None:
        if as_json:
            emit({"failed": False, "seed": outcome.seed, "steps": outcome.steps}, as_json)
        else:
            click.echo(f"The run of seed {outcome.seed} does not fail any more.")
        return
    _fail(SimulationFailed(told(outcome), token), as_json)


def _fail(failed: SimulationFailed, as_json: bool) -> None:
    if as_json:
        emit({"failed": True, "report": str(failed), "token": failed.token}, as_json)
    else:
        for line in str(failed).splitlines():
            click.echo(" " * (len(line) - len(line.lstrip())) + plain(line.strip()), err=True)
    raise SystemExit(1)


def _say(tally: Tally, seconds: float, as_json: bool) -> None:
    faults = dict(sorted(tally.faults.items()))
    if as_json:
        figures = {"failed": False, "runs": tally.runs, "steps": tally.steps, "seconds": seconds, "faults": faults}
        emit(figures, as_json)
        return
    rate = tally.runs / max(seconds, 1e-9)
    click.echo(f"{counted(tally.runs, 'run')}, {counted(tally.steps, 'step')}, {rate:.0f} runs/s: nothing was lost, "
               "doubled, made up or out of order.")  # fmt: skip
    click.echo("What went wrong: " + (", ".join(f"{label} {count:,}" for label, count in faults.items()) or "nothing"))
