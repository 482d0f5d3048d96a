"""`tidings groups`: how far each handler's group is behind, how fast it goes, and when it will be done."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import click

from tidings import dead
from tidings.broker import Lag
from tidings.cli.catalog import internal, known
from tidings.cli.moment import span
from tidings.cli.output import emit
from tidings.cli.sight import Sight, sight
from tidings.cli.target import broker_option, json_option, monitor_option
from tidings.clock import Clock

Place = AbstractAsyncContextManager[Sight]


@click.command()
@click.argument("group", required=False)
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0), default=1.0, show_default=True, metavar="SECONDS",
    help="How long rates are measured; 0 leaves them out.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Also the groups in which dead letters wait for an operator.")
@monitor_option
@broker_option
@json_option
def groups(group: str | None, as_json: bool, broker: str | None, monitor: str | None, **options: Any) -> None:
    """List the groups: lag in events, age of the oldest, events handled and arriving a second, time to drain.

    The time to drain is what the lag takes at the rates measured, and unknown where it does not shrink.
    """
    asyncio.run(_watch(group, sight(broker, monitor), as_json, **options))


async def _watch(
    group: str | None, place: Place, as_json: bool, *, watch: bool, interval: float, everything: bool
) -> None:
    clock = Clock()
    async with place as there:
        while True:
            names = await _chosen(there, group, everything=everything)
            _show(await measure(there, names, interval), as_json, clear=watch)
            if not watch:
                return
            if not interval:
                await clock.sleep(1.0)


async def _chosen(there: Sight, group: str | None, *, everything: bool) -> list[str]:
    names = await there.groups()
    if group is not None:
        return [known(group, names, "group")]
    return [name for name in names if everything or not internal(name)]


def _show(rows: list[dict[str, Any]], as_json: bool, *, clear: bool) -> None:
    if clear and not as_json and sys.stdout.isatty():
        click.clear()
    if not rows and not as_json:
        click.echo("There are no groups yet: a handler makes its group when it starts.")
        return
    if not as_json:
        rows = [
            {**row, "topics": ", ".join(topic for topic in row["topics"] if not internal(topic)),
             "oldest": span(row["oldest"]), "drain": span(row["drain"])}
            for row in rows
        ]  # fmt: skip
    emit(rows, as_json)


async def measure(there: Sight, names: Sequence[str], interval: float) -> list[dict[str, Any]]:
    """A row for each group. Durations in seconds, rates in events a second; what is unknown is None."""
    clock = Clock()
    topics = await there.groups()
    began, mark, before = clock.monotonic(), await there.mark(), {}
    if interval:
        before = {name: (await _waiting(there, name, topics[name])).waiting for name in names}
        await clock.sleep(interval)
    arrived = await there.arrived(mark)
    after = {name: await _waiting(there, name, topics[name]) for name in names}
    elapsed = clock.monotonic() - began
    alive = await there.members()
    rows = []
    for name in names:
        waiting, oldest = after[name].waiting, after[name].oldest
        rate = arriving = drain = None
        if interval and set(topics[name]) <= arrived.keys():
            came = sum(arrived[topic] for topic in topics[name])
            arriving = came / elapsed
            if (had := before[name]) is not None and waiting is not None:
                rate = max(had + came - waiting, 0) / elapsed
                drain = _drain(waiting, rate - arriving)
        rows.append({
            "group": name, "topics": topics[name], "waiting": waiting, "oldest": oldest, "rate": rate,
            "arriving": arriving, "drain": drain, "members": alive.get(name), "dead": await _dead(there, name, topics),
        })  # fmt: skip
    return rows


async def _waiting(there: Sight, group: str, topics: Sequence[str]) -> Lag:
    """Of all its topics together: as much as is known."""
    lags = [await there.lag(topic, group) for topic in topics]
    waiting = [lag.waiting for lag in lags if lag.waiting is not None]
    oldest = [lag.oldest for lag in lags if lag.oldest is not None]
    return Lag(sum(waiting) if waiting else None, max(oldest) if oldest else None)


def _drain(waiting: int, shrinking: float) -> float | None:
    if not waiting:
        return 0.0
    return waiting / shrinking if shrinking > 0 else None


async def _dead(there: Sight, handler: str, topics: dict[str, list[str]]) -> int | None:
    """How many dead letters of a handler are open; None for what is no handler's group."""
    operator = dead.operator_of(handler)
    return (await there.lag(dead.topic_of(handler), operator)).waiting if operator in topics else None
