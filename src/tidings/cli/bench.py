"""`tidings bench`: what tidings costs on this machine. The measures themselves are in the source tree, in `bench/`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

import tidings
from tidings.cli.output import emit, progress


@click.group()
def bench() -> None:
    """Measure this machine, beside a hand-written loop."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one list of measure, ours, raw, ratio, unit.")
@click.option("--full", is_flag=True, help="Also what takes long: growth to 10 million events, and the WAL.")
@click.option("--measure", "names", multiple=True, metavar="NAME", help="Only this one; may be given several times.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Each figure is their median.")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Put the table into this document.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 10), hidden=True)
def embedded(as_json: bool, write: Path | None, rounds: int, scale: float, **which: Any) -> None:
    """The embedded broker beside hand-written sqlite3 and msgspec, round by round in turn.

    `ratio` is ours / raw: for rates more is better, for latency, idle CPU, bytes and the WAL less is.
    """
    measures = _measures("embedded")
    names = measures.chosen(which["names"], which["full"])
    busy = _measures("machine").busy()
    outcomes = measures.run(names, rounds=rounds, scale=scale, progress=_tell)
    if write is not None:
        _measures("report").write_embedded(write, outcomes, busy)
    _emit(outcomes, as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one list of measure, ours, raw, ratio, unit.")
@click.option("--only", default="", metavar="NAME,...", help="Only these servers or measures: nats,valkey.latency")
@click.option("--full", is_flag=True, help="Also what takes long: a backlog of a million, and a server that dies.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Each figure is their median.")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Put the table into this document.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 10), help="How much of the events: 0.1 is a tenth.")
def brokers(as_json: bool, write: Path | None, rounds: int, scale: float, **which: Any) -> None:
    """Kafka, NATS, RabbitMQ, Valkey and PostgreSQL: tidings beside their plain clients, round by round in turn.

    The servers are started for it, and ended. `ratio` is ours / raw: for rates and for events a second of CPU more is
    better, for latency less is.
    """
    servers = _measures("brokers.servers")
    names = servers.chosen([name for name in which["only"].split(",") if name], which["full"])
    for sentence in () if which["only"] else servers.left_out():
        _tell(f"left out: {sentence}")
    machine = _measures("machine")
    machine.warn(_tell)
    busy = machine.busy()
    with progress("measuring", servers.steps(names, rounds), quiet=as_json) as advance:
        bar = sys.stderr.isatty() and not as_json
        outcomes = servers.run(names, rounds=rounds, scale=scale, progress=(lambda _: advance(1)) if bar else _tell)
    if write is not None:
        _measures("report").write_brokers(write, outcomes, busy)
    _emit(outcomes, as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one list for programs.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Each figure is their median.")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Put the table into this document.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 10), hidden=True)
def peers(as_json: bool, write: Path | None, rounds: int, scale: float) -> None:
    """FastStream, huey and litequeue on the same work, in an environment that is made for them."""
    busy = _measures("machine").busy()
    rows = _measures("peers.compare").run(rounds=rounds, scale=scale, progress=_tell)
    if write is not None:
        _measures("report").write_peers(write, rows, busy)
    emit([msgspec.to_builtins(row) for row in rows], as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one list for programs.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Each figure is their best.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 10), hidden=True)
def simulator(as_json: bool, rounds: int, scale: float) -> None:
    """Steps of the simulated loop alone, and runs of a shop with the real engine, by the CPU time of one core."""
    rows = _measures("simulator").run(rounds=rounds, scale=scale, progress=_tell)
    emit([msgspec.to_builtins(row) | {"reached": row.figure >= row.goal} for row in rows], as_json)


def _emit(outcomes: Sequence[Any], as_json: bool) -> None:
    """For people with what was to be reached."""
    rows = [msgspec.to_builtins(outcome.row) for outcome in outcomes]
    if not as_json:
        for row, outcome in zip(rows, outcomes, strict=True):
            row |= {"to reach": str(outcome.goal), "reached": "yes" if outcome.met else "no"}
    emit(rows, as_json)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _measures(name: str) -> Any:
    """A module of `bench/`, which lies beside `src/` in the source tree and is not part of the wheel."""
    for root in (Path(tidings.__file__).parents[2], Path.cwd()):
        if (root / "bench" / "embedded.py").is_file():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return importlib.import_module(f"bench.{name}")
    raise click.ClickException(
        "The benchmarks are not installed with the package: they are in the source tree. "
        "Get it, and run `make bench` there."
    )
