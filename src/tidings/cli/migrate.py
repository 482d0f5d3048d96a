"""`tidings migrate`: the events of a file move to another broker, while the app runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import click

from tidings.cli.catalog import file_of
from tidings.cli.output import counted, emit, plain, progress
from tidings.cli.signals import on_stop
from tidings.cli.target import json_option
from tidings.clock import Clock
from tidings.embedded import fence
from tidings.embedded.catalog import Catalog
from tidings.moving.migration import Migration, Outcome, roll_back
from tidings.moving.source import Source
from tidings.moving.target import Target, place_of, target


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("url", metavar="TO")
@click.option("--rollback", is_flag=True, help="Give up a move that is not final: the app stays at FROM.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=25.0,
    show_default=True,
    metavar="S",
    help="Seconds that handlers have to finish what they have begun before the switch.",
)
@json_option
def migrate(source: str, url: str, *, rollback: bool, grace: float, as_json: bool) -> None:
    """Move the events of FROM (sqlite:tidings.db) to TO, such as nats://localhost:4222, while the app runs.

    History, what the groups have done, retries, dead letters and delayed events move; ids, keys, headers and times stay
    as they are. All is compared before the switch. Stopped at any point, by SIGTERM or Ctrl-C, it undoes what it has
    begun and goes on when it is called again; exit code 130.
    """
    path = file_of(source)
    told: dict[str, Any] = {"from": source, "to": place_of(url)}
    try:
        if rollback:
            place = asyncio.run(_roll_back(path))
            told["rolled_back"] = place
            sentence = f"{path} keeps its events; what was copied to {place} remains there."
        else:
            outcome, there = asyncio.run(_migrate(path, url, grace=grace, quiet=as_json))
            told |= {"start_with": there.settings, "left": there.left}
            if outcome is not None:
                told |= outcome._asdict() | {"topics": [topic._asdict() for topic in outcome.topics]}
            sentence = _summary(outcome, there, path)
    except asyncio.CancelledError as ended:
        click.echo(plain(_stopped(path, rollback=rollback)), err=True)
        raise click.Abort from ended
    if as_json:
        emit(told, as_json)
    else:
        click.echo(plain(sentence))


async def _roll_back(path: Path) -> str:
    _cancel_on_stop()
    async with _opened(path) as source:
        return await roll_back(source)


async def _migrate(path: Path, url: str, *, grace: float, quiet: bool) -> tuple[Outcome | None, Target]:
    """What was moved, None where it had been before; and where it is."""
    _cancel_on_stop()
    async with _opened(path) as source:
        there = target(url, source)
        if source.state() == (place_of(url), True):
            return None, there
        await there.connection.open()
        try:
            with progress("moving", source.span()[0], quiet=quiet) as bar:
                return await Migration(source, there, place_of(url), bar).run(grace), there
        finally:
            await there.connection.close()


def _cancel_on_stop() -> None:
    task = asyncio.current_task()
    assert task is not None, "asyncio.run has made one"
    on_stop(task.cancel)


def _stopped(path: Path, *, rollback: bool) -> str:
    """What to say when all has been closed: what is asked of the file then does not change any more."""
    with Catalog(path) as there:
        state = fence.state(there.connection)
    if state is not None and state[1]:
        return f"Stopped, but {path} had moved already, and that is final. The same command says how to start the app."
    if rollback:
        return "Stopped; " + ("the move is given up." if state is None else "the same command gives the move up.")
    return "Stopped; nothing has moved. The same command goes on, and with --rollback the move is given up."


@contextlib.asynccontextmanager
async def _opened(path: Path) -> AsyncGenerator[Source]:
    source = Source(path, Clock())
    try:
        await source.open()
        yield source
    finally:
        await source.close()


def _summary(outcome: Outcome | None, there: Target, path: Path) -> str:
    said = [
        f"{path} has moved before." if outcome is None else _moved(outcome),
        f"Start the app with {there.settings}.",
    ]
    if there.left:
        said.append(f"Your own tables are still in {path}: {', '.join(there.left)}.")
    return " ".join(said)


def _moved(outcome: Outcome) -> str:
    events, topics = sum(topic.events for topic in outcome.topics), counted(len(outcome.topics), "topic")
    undone = "" if outcome.drained else " What handlers had not finished in time is undone, and is handled there."
    return (
        f"{counted(events, 'event')} of {topics}, {counted(outcome.groups, 'group')} and "
        f"{counted(outcome.delayed, 'delayed event')} have moved, and are the same at both ends; nothing could be "
        f"published for {outcome.pause:.2f} s.{undone}"
    )
