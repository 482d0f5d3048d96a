"""The table of docs/guide/brokers.md: what each adapter claims, and how the shop does on it.

    python -m bench.which_broker --write docs/guide/brokers.md

The promises are the `features` of the adapters' classes. The figures are those of `tidings demo` on this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench import machine
from bench.report import figure, replace_section
from tidings.broker import Feature
from tidings.brokers.kafka import KafkaLink
from tidings.brokers.nats import NatsLink
from tidings.brokers.postgres import PostgresBroker
from tidings.brokers.rabbitmq import RabbitLink
from tidings.brokers.redis import RedisLink
from tidings.brokers.sqlite import SqliteBroker

SECTION = "which"
UNHURRIED = ("--limit=600", "--speed=60")
"""Orders of which nothing waits, so that what waits after a kill waits for its worker to be found dead."""
HEAD = (
    "broker", "URL", "what is acknowledged is kept", "order by key", "replay", "an id is kept once", "delay",
    "one commit with the store", "needs", "the shop: orders/s", "recovery, s",
)  # fmt: skip
METHOD = """\
The promises are those that the adapter's class claims, and the contract suite checks on a real server. The figures are
of `tidings demo` on the servers of `tidings dev`, which share the machine with the shop: 7,497 orders through seven
services, one worker killed with `kill -9` on the way, and nothing was lost or done twice on any of them. Recovery is
how long it takes after the kill, at 60 orders a second, until all orders are done that were placed before it. A broker
that sees a process or its connection end finds a dead worker at once; others wait for its lease, which is 6 s here
(30 s by default). Written by `make brokers`: run it, and the section is replaced by what your machine says."""


class Choice(NamedTuple):
    """A broker that one may choose. `server` is its name for `tidings demo`; None for the file."""

    name: str
    url: str
    adapter: type[Any]
    server: str | None
    needs: str
    """The settings without which the claim does not hold."""

    @property
    def features(self) -> Feature:
        """What the adapter claims."""
        features: Feature = self.adapter.features
        return features


CHOICES = (
    Choice("[embedded](embedded.md)", "sqlite:tidings.db", SqliteBroker, None, "a local disk that obeys fsync"),
    Choice("[PostgreSQL](postgres.md)", "postgresql://...", PostgresBroker, "postgres",
           "`fsync=on`; a synchronous standby to outlive the server's disk"),
    Choice("[Kafka](kafka.md)", "kafka://...", KafkaLink, "kafka",
           "three replicas, `min.insync.replicas=2`, no unclean leader election"),
    Choice("[NATS JetStream](nats.md)", "nats://...", NatsLink, "nats",
           "`sync_interval: always`, or three replicas; ids are known for `?window=`"),
    Choice("[Redis, Valkey](redis.md)", "redis://...", RedisLink, "valkey",
           "`appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction`; ids are known for `?window=`"),
    Choice("[RabbitMQ](rabbitmq.md)", "amqp://...", RabbitLink, "rabbitmq",
           "quorum queues, which it makes; three nodes to outlive the server's disk"),
)  # fmt: skip


class Measured(NamedTuple):
    """How the shop did: cells of the table."""

    rate: str = "-"
    recovery: str = "-"


def line(choice: Choice, measured: Measured) -> str:
    """The row of a broker."""
    claims = choice.features.__contains__
    cells = (
        choice.name,
        f"`{choice.url}`",
        *(
            "yes" if claims(feature) else "no"
            for feature in (Feature.DURABLE, Feature.ORDERED, Feature.REPLAY, Feature.UNIQUE)
        ),
        "yes" if claims(Feature.DELAY) else "with a store",
        "yes, the same database" if claims(Feature.ATOMIC) else "through outbox and inbox",
        choice.needs,
        *measured,
    )
    return f"| {' | '.join(cells)} |"


def table(figures: Mapping[str, Measured]) -> str:
    """The table, with these figures by the names of brokers."""
    rule = ["---"] * (len(HEAD) - len(Measured._fields)) + ["---:"] * len(Measured._fields)
    lines = [line(choice, figures.get(choice.name, Measured())) for choice in CHOICES]
    return "\n".join([f"| {' | '.join(HEAD)} |", f"| {' | '.join(rule)} |", *lines])


def written(path: Path) -> dict[str, Measured]:
    """The figures that the page has."""
    section = path.read_text().partition(f"<!-- {SECTION} -->")[2].partition(f"<!-- /{SECTION} -->")[0]
    rows = [text.strip("| ").split(" | ") for text in section.splitlines() if text.startswith("| [")]
    return {cells[0]: Measured(*cells[-len(Measured._fields) :]) for cells in rows}


def measure(choice: Choice) -> Measured:
    """Run the shop as fast as it goes, then unhurried. Raises ClickException where anything was lost or doubled."""
    where = () if choice.server is None else (f"--broker={choice.server}",)
    fast, calm = run(where), run((*where, *UNHURRIED))
    return Measured(figure(fast["orders_per_second"]), f"{calm['recovery']:.1f}")


def run(flags: Sequence[str]) -> dict[str, Any]:
    """The ledger of a run of the demo."""
    command = [sys.executable, "-m", "tidings", "demo", "--headless", "--json", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    click.echo(f"{' '.join(flags)}: {done.stdout.strip()}", err=True)
    if done.returncode:
        raise click.ClickException(f"tidings demo {' '.join(flags)} ended with exit code {done.returncode}")
    ledger: dict[str, Any] = json.loads(done.stdout)
    return ledger


@click.command()
@click.option(
    "--broker", "wanted", multiple=True, help="Measure only this one (sqlite, nats, ...); several times for more."
)
@click.option(
    "--write", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="Put the table into this page."
)
def main(wanted: tuple[str, ...], write: Path | None) -> None:
    """Measure the shop on each broker, and draw up the table of what they promise."""
    known = [choice.server or "sqlite" for choice in CHOICES]
    if unknown := set(wanted) - set(known):
        raise click.UsageError(f"there is no broker {min(unknown)}; there are {', '.join(known)}")
    busy = machine.busy()
    figures = written(write) if write else {}
    for choice in CHOICES:
        if not wanted or (choice.server or "sqlite") in wanted:
            figures[choice.name] = measure(choice)
    if write is None:
        click.echo(table(figures))
    else:
        stamp = f"{machine.described()}; load of others {busy:.1f}."
        replace_section(write, SECTION, f"{table(figures)}\n\n{METHOD}\n\nMeasured on {stamp}")


if __name__ == "__main__":
    main()
