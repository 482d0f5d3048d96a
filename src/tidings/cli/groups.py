"""`tidings groups`: how far each handler's group is behind, how fast it goes, and when it will be done."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from tidings import dead
from tidings.cli.catalog import catalog, internal, known
from tidings.cli.moment import span
from tidings.cli.output import emit
from tidings.cli.target import broker_option, json_option
from tidings.clock import Clock
from tidings.embedded.catalog import Catalog


@click.command()
@click.argument("group", required=False)
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0), default=1.0, show_default=True, metavar="SECONDS",
    help="How long rates are measured; 0 leaves them out.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Also the groups in which dead letters wait for an operator.")
@broker_option
@json_option
def groups(group: str | None, watch: bool, as_json: bool, broker: str | None, **options: Any) -> None:
    """List the groups: lag in events, age of the oldest, events handled and arriving a second, time to drain.

    The time to drain is what the lag takes at the rates measured, and unknown where it does not shrink.
    """
    interval: float = options["interval"]
    with catalog(broker) as there:
        names = _chosen(there, group, everything=options["everything"])
        while True:
            rows = measure(there, names, interval)
            _show(rows, as_json, clear=watch)
            if not watch:
                return
            if not interval:
                time.sleep(1.0)
            names = _chosen(there, group, everything=options["everything"])


def _chosen(there: Catalog, group: str | None, *, everything: bool) -> list[str]:
    names = there.groups()
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


def measure(there: Catalog, names: Sequence[str], interval: float) -> list[dict[str, Any]]:
    """A row for each group. Durations in seconds, rates in events a second; what is unknown is None."""
    clock = Clock()
    topics = there.groups()
    began, head, before = clock.monotonic(), there.head(), {}
    if interval:
        before = {name: _waiting(there, name, topics[name])[0] for name in names}
        time.sleep(interval)
    arrived = there.arrived(head)
    after = {name: _waiting(there, name, topics[name]) for name in names}
    elapsed = clock.monotonic() - began
    alive = [member.group for member in there.members(clock.monotonic()) if not member.dead]
    rows = []
    for name in names:
        waiting, oldest = after[name]
        rate = arriving = drain = None
        if interval:
            came = sum(arrived.get(topic, 0) for topic in topics[name])
            rate, arriving = max(before[name] + came - waiting, 0) / elapsed, came / elapsed
            drain = _drain(waiting, rate - arriving)
        rows.append({
            "group": name, "topics": topics[name], "waiting": waiting, "oldest": oldest, "rate": rate,
            "arriving": arriving, "drain": drain, "members": alive.count(name), "dead": _dead(there, name, topics),
        })  # fmt: skip
    return rows


def _waiting(there: Catalog, group: str, topics: Sequence[str]) -> tuple[int, float]:
    lags = [there.lag(topic, group, Clock().now()) for topic in topics]
    return sum(lag.waiting or 0 for lag in lags), max((lag.oldest or 0.0 for lag in lags), default=0.0)


def _drain(waiting: int, shrinking: float) -> float | None:
    if not waiting:
        return 0.0
    return waiting / shrinking if shrinking > 0 else None


def _dead(there: Catalog, handler: str, topics: dict[str, list[str]]) -> int | None:
    """How many dead letters of a handler are open; None for what is no handler's group."""
    operator = dead.operator_of(handler)
    return there.lag(dead.topic_of(handler), operator, 0.0).waiting if operator in topics else None
