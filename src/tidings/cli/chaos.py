"""`tidings chaos run`: publishers and workers as real processes, which are killed and frozen, and the ledger of it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from tidings.cli.main import FAILED
from tidings.cli.output import emit, plain, to_json
from tidings.errors import ConfigError

if TYPE_CHECKING:
    from tidings.chaos.driver import Progress
    from tidings.chaos.ledger import Report
    from tidings.chaos.plan import Plan
    from tidings.chaos.site import Site

LARGEST_SEED = 1_000_000


class Where(NamedTuple):
    """Where a run is: at a broker that is there, at a server that it starts, or in a file of its own."""

    broker: str | None
    store: str | None
    server: str | None
    remote_is_mine: bool


@click.group()
def chaos() -> None:
    """Kill and freeze real processes in the middle of the work, and count what was lost or done twice."""


@chaos.command()
@click.option("--broker", metavar="URL", help="A broker that is there, in which no run has been.")
@click.option(
    "--store", metavar="URL", help="The store beside it, in which none has been; a temporary file by default."
)
@click.option(
    "--server",
    metavar="NAME",
    help="Start a server, which profiles can break: nats, valkey, rabbitmq, kafka, postgres.",
)
@click.option("--profile", default="kills", show_default=True, metavar="NAME|FILE", help="What is to happen.")
@click.option("--events", type=click.IntRange(1), metavar="N", help="How many are published.")
@click.option("--kills", type=click.IntRange(0), metavar="N", help="kill -9, spread over all places and moments.")
@click.option("--keys", type=click.IntRange(1), metavar="N", help="How many keys they belong to.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="How many processes handle events.")
@click.option("--publishers", type=click.IntRange(1), metavar="N", help="How many processes publish them.")
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", help="Chooses who suffers what where; by chance by default."
)
@click.option("--runs", default=1, type=click.IntRange(1), metavar="N", help="How many runs, each with the next seed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each run.")
@click.option("--keep", is_flag=True, help="Keep the folder of a run that failed: journals, database, log.")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Put the figures into this document.")
@click.option("--remote-is-mine", is_flag=True, help="The broker is on another machine, and is mine to break.")
def run(profile: str, **given: Any) -> None:
    """Publish, handle, kill and freeze; then draw up a ledger. Exit code 1 where something does not hold.

    Without a broker the run is in a temporary folder. What is counted: every event that was acknowledged has its effect
    exactly once in the user's own table, in the order of its key, or is a dead letter; nothing else is there; every
    fault that was planned has happened.
    """
    from tidings.chaos.profile import load

    shape = {name: given[name] for name in ("events", "kills", "keys", "workers", "publishers")}
    where = Where(*(given[name] for name in Where._fields))
    if where.broker is not None and where.server is not None:
        raise click.UsageError(
            "A run is at a broker that is there or at a server that it starts: leave one of them out."
        )
    seed = secrets.randbelow(LARGEST_SEED) if given["seed"] is None else given["seed"]
    reports = []
    for number in range(given["runs"]):
        plan = load(profile, seed=seed + number, **shape)
        report = _one_run(plan, where, keep=given["keep"])
        reports.append(report)
        _say(report, as_json=given["as_json"])
    if given["write"] is not None:
        _write(given["write"], reports)
    sys.exit(0 if all(report.ok for report in reports) else FAILED)


@chaos.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def profiles(name: str | None, as_json: bool) -> None:
    """List the profiles that come with the package; with NAME print that one, to begin a file of your own with."""
    from tidings.chaos.profile import shipped

    known = shipped()
    if name is None:
        emit([{"profile": key, "what happens": _title(text)} for key, text in known.items()], as_json)
    elif name not in known:
        raise ConfigError(f"There is no profile {name!r}; there are: {', '.join(known)}.")
    else:
        click.echo(to_json({"profile": name, "text": known[name]}) if as_json else known[name], nl=as_json)


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _one_run(plan: Plan, where: Where, *, keep: bool) -> Report:
    """Run, and leave nothing behind but what was asked for."""
    folder = Path(tempfile.mkdtemp(prefix="tidings-chaos-"))
    report = None
    try:
        with _bar(plan.events) as tell:
            report = asyncio.run(_run(plan, where, folder, tell))
        return report
    except asyncio.CancelledError:
        raise click.Abort from None  # told to stop
    finally:
        if keep and (report is None or not report.ok):
            click.echo(f"kept: {folder}", err=True)
        else:
            _remove(folder)


async def _run(plan: Plan, where: Where, folder: Path, tell: Callable[[Progress], None]) -> Report:
    from tidings.chaos.driver import run
    from tidings.chaos.profile import check

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _site(where, folder, lasting=plan.frozen_for) as site:
        check(plan, site)
        return await run(plan, site, folder, tell)


@contextlib.asynccontextmanager
async def _site(where: Where, folder: Path, lasting: float) -> AsyncGenerator[Site]:
    """The place of the run. A server has a folder of its own, for its log is long."""
    from tidings.chaos.address import find

    store = where.store or f"sqlite:{folder / 'store.db'}"
    if where.server is None:
        site = find(where.broker or f"sqlite:{folder / 'tidings.db'}", store, remote_is_mine=where.remote_is_mine)
        if where.store is not None and site.store is None:
            raise ConfigError(f"{where.broker or 'The embedded broker'} is its own store: leave --store out.")
        yield site
        return
    from tidings.chaos.ground import ground

    async with ground(where.server, folder / "server", lasting) as place:
        yield find(place.url, store, faults=place.faults, direct=place.direct)


def _remove(folder: Path) -> None:
    """The folder of a run; somebody may have removed it before us."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _say(report: Report, *, as_json: bool) -> None:
    """The run in a line, and what is wrong with it in further ones; with --json one object."""
    click.echo("\n  ".join([report.line, *map(plain, report.problems)]), err=as_json)
    if as_json:
        click.echo(to_json(msgspec.to_builtins(report)))


def _write(path: Path, reports: list[Report]) -> None:
    from tidings.chaos.document import write

    write(path, reports)


@contextlib.contextmanager
def _bar(events: int) -> Generator[Callable[[Progress], None]]:
    """A bar of what is published, and words about the rest, while the block lasts and where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=events)

        def tell(so_far: Progress) -> None:
            words = f"{so_far.faults} of {so_far.planned} faults, {so_far.pending:,} pending"
            bar.update(task, completed=so_far.published, description=words)

        yield tell
