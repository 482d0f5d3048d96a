"""`tidings bench`: what tidings costs on this machine. The measures themselves are in the source tree, in `bench/`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

import tidings
from tidings.cli.output import emit


@click.group()
def bench() -> None:
    """Measure this machine, beside a hand-written loop."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one list of measure, ours, raw, ratio, unit.")
@click.option("--full", is_flag=True, help="Also what takes long: growth to 10 million events, and the WAL.")
@click.option("--measure", "names", multiple=True, metavar="NAME", help="Only this one; may be given several times.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Each figure is their median.")
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(0.001, 10), help="Less or more work.")
def embedded(as_json: bool, full: bool, names: tuple[str, ...], rounds: int, scale: float) -> None:
    """The embedded broker beside hand-written sqlite3 and msgspec, round by round in turn."""
    measures = _measures("embedded")
    outcomes = measures.run(
        measures.chosen(names, full), rounds=rounds, scale=scale, progress=lambda text: click.echo(text, err=True)
    )
    emit([msgspec.to_builtins(outcome.row) for outcome in outcomes], as_json)


def _measures(name: str) -> Any:
    """A module of `bench/`, which lies beside `src/` in the source tree and is not part of the wheel."""
    for root in (Path(tidings.__file__).parents[2], Path.cwd()):
        if (root / "bench" / f"{name}.py").is_file():
            sys.path.insert(0, str(root))
            return importlib.import_module(f"bench.{name}")
    raise click.ClickException(
        "The benchmarks are not installed with the package: they are in the source tree. "
        "Get it, and run `make bench` there."
    )
