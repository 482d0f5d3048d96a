"""The rows of the matrix for brokers that are servers: `python -m tests.matrix.brokers [--server NAME] [--write FILE]`.

Three runs of the chaos driver for each server, and what each fault of theirs came to. The faults of a row happen among
those of the others of its run, as they do in life; so what was lost, doubled or out of order is the run's.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from msgspec.structs import replace

from bench import machine
from bench.report import replace_section
from tidings.chaos import driver, plan
from tidings.chaos.address import find
from tidings.chaos.ground import SERVERS, Ground, ground
from tidings.chaos.ledger import Report, shown
from tidings.chaos.plan import Plan
from tidings.chaos.profile import check
from tidings.chaos.toxics import Reset

AWAY = 8
"""Seconds for which nobody gets through to the server when all start."""
PATIENCE = 240.0
"""Seconds in which nothing moves, after which a run is broken off: on a busy machine a server takes long to begin."""
PROCESSES, SERVER, START = "processes", "server", "start"
COMMITTED = {"postgres": {"committed": 2, "committing": 1}}
"""Where broker and store settle in one commit, the other servers' places between the two do not exist."""
SETTLED = {"acknowledging": 2, "relayed": 2}


class Row(NamedTuple):
    """A row: its number, the fault, in which run it happens, and which kinds of faults are its own."""

    number: str
    fault: str
    run: str
    kinds: Sequence[str]


ROWS = (
    Row("1", "kill -9 of a worker, in the middle of a handler and at any moment", PROCESSES,
        ("in_handler", plan.KILL_WORKER, "lent")),
    Row("2", "kill -9 between the commit of the effect and the acknowledgement", PROCESSES,
        ("acknowledging", "committed", "committing", "settling")),
    Row("2b", "kill -9 around publishing, before and after the broker has it; of the relay of the outbox", PROCESSES,
        ("publishing", "published", "relayed", plan.KILL_PUBLISHER)),
    Row("3", "SIGTERM with work in flight, and kill -9 while it drains", PROCESSES, (plan.STOP, "draining")),
    Row("4", "orderly restart of the server", SERVER, (plan.RESTART_BROKER,)),
    Row("5", "kill -9 of the server; a server that stands still (SIGSTOP)", SERVER,
        (plan.KILL_BROKER, plan.FREEZE_BROKER)),
    Row("6", "all connections reset: at once, in the middle of what is said, each one for a time", SERVER,
        (plan.CUT, plan.TORN, plan.REFUSED)),
    Row("7", "half-open: nothing gets to the server, nothing comes back, neither", SERVER,
        (plan.HALF_OPEN_UP, plan.HALF_OPEN, plan.BLACK_HOLE)),
    Row("8", "200 ms late; 8 KB/s in pieces of 100 bytes", SERVER, (plan.SLOW, plan.THIN)),
    Row("9", f"the server cannot be reached when all start, for {AWAY} s", START, ()),
    Row("13", "rolling restart of all workers; a worker that stands still for longer than its lease", PROCESSES,
        (plan.ROLL, plan.FREEZE)),
    Row("14", "events with which a handler fails each time", PROCESSES, ()),
    Row("18", "one event in ten published twice under its id", PROCESSES, (plan.REPUBLISH,)),
    Row("19", "one event in a hundred fails once or twice in each of four handlers, and comes again", PROCESSES, ()),
    Row("22", "all processes connect at once, when the server can be reached", START, ()),
)  # fmt: skip

SETTINGS = {
    "nats": "JetStream on disk with `sync_interval: always` (by default a power cut may take two minutes); three "
    "replicas where a machine may be lost",
    "valkey": "`appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction`; with `everysec` a power cut may "
    "take a second; a failover to a replica may lose what it had not got",
    "rabbitmq": "durable quorum queues and publisher confirms, which the adapter asks for; three nodes where a machine "
    "may be lost",
    "kafka": "`acks=all` and idempotent producers, which the adapter asks for; one broker here, so a power cut may "
    "take what is not flushed: `replication=3` and `min.insync.replicas=2` for more",
    "postgres": "`fsync=on` and `synchronous_commit=on`, which each connection of ours sets; a standby where a machine "
    "may be lost",
}
METHOD = """\
Each table is three runs of the chaos driver against a server of its own behind our TCP proxy: *processes* (workers and
publishers are killed, frozen, stopped), *server* (the server and the way to it are broken) and *start* (nobody gets
through at first). Publishers keep an fsynced journal, effects are in the user's own table without a unique constraint.
What was lost, doubled or out of order is that of the row's run, in which the faults of other rows happen too.
*Recovery* is from the fault, or from its end where it is one of the server or of the way to it, to the next effect on a
key that it held up; where further faults come first, it goes on through them.

`make reliability-brokers` writes the tables anew; `ARGS="--server nats --run start"` only a part."""


def plans(server: str, events: int, seed: int) -> dict[str, Plan]:
    """The runs."""
    usual = Plan(events=events, keys=32, seed=seed, faults={}, patience=PATIENCE)
    deaths = {"in_handler": 1, plan.KILL_WORKER: 1, "lent": 1, "settling": 1, "publishing": 1, "published": 1}
    deaths |= {plan.KILL_PUBLISHER: 1, "draining": 1} | COMMITTED.get(server, SETTLED)
    others = {plan.STOP: 1, plan.ROLL: 1, plan.FREEZE: 1, plan.REPUBLISH: events // 10}
    broken = dict.fromkeys(plan.ON_BROKER, 1) | {plan.RESTART_BROKER: 2, plan.KILL_BROKER: 2, plan.CUT: 2, plan.TORN: 2}
    return {
        PROCESSES: replace(usual, faults=deaths | others, profile=PROCESSES),
        SERVER: replace(usual, faults=broken, profile=SERVER),
        START: replace(usual, events=events // 2, publishers=3, profile=START),
    }


class Connects:
    """How many connections are made in each second."""

    def __init__(self, place: Ground) -> None:
        self.away: list[int] = []
        self.back: list[int] = []
        self._place = place

    async def count(self) -> None:
        """Keep everybody out until some time after the first has tried, let them in, and go on counting."""
        with self._place.broken(Reset()):
            while not self._place.accepted:  # noqa: ASYNC110 - what other processes do sets no event
                await asyncio.sleep(0.02)
            for _ in range(AWAY):
                self.away.append(await self._second())
        while True:
            self.back.append(await self._second())

    async def _second(self) -> int:
        before = self._place.accepted
        await asyncio.sleep(1.0)
        return self._place.accepted - before


async def run(server: str, what: Plan, folder: Path) -> tuple[Report, Connects]:
    """One run in a folder of its own."""
    async with ground(server, folder / "server", lasting=what.frozen_for) as place:
        site = find(place.url, f"sqlite:{folder / 'store.db'}", faults=place.faults, direct=place.direct)
        check(what, site)
        connects = Connects(place)
        counting = asyncio.create_task(connects.count()) if what.profile == START else None
        try:
            return await driver.run(what, site, folder), connects
        finally:
            if counting is not None:
                counting.cancel()
                await asyncio.wait([counting])


def line(row: Row, report: Report, connects: Connects) -> str:
    """The row of the table."""
    waits = [wait for kind in row.kinds for wait in report.waits.get(kind, ())]
    measured = {
        "9": f"at most {max(connects.away, default=0)} attempts to connect in a second, of 6 processes",
        "22": f"at most {max(connects.back, default=0)} connections in a second, of 6 processes",
        "14": f"{report.dead} dead letters, nothing waits for them",
        "19": f"deliveries {report.deliveries_mean:.2f} on average, {report.deliveries_max} at most",
    }.get(row.number, f"{sum(report.faults.get(kind, 0) for kind in row.kinds)} times")
    recovery = [shown(round(statistics.median(waits), 2)), shown(max(waits))] if waits else ["-", "-"]
    counts = (report.lost, report.phantom, report.duplicate_effects, report.inversions)
    return f"| {' | '.join([row.number, row.fault, measured, *map(str, counts), *recovery])} |"


def lines(name: str, report: Report, connects: Connects) -> dict[str, str]:
    """What the document says of a run, by what it is about."""
    told = {row.number: line(row, report, connects) for row in ROWS if row.run == name}
    told[name] = (
        f"- *{name}*: {report.acked:,} acknowledged, {report.unknown} unknown, {report.effects_once:,} effects once, "
        f"{report.dead} dead letters, {report.pending} pending, {report.seconds:.0f} s"
        + ("" if report.ok else f". **FAILED**: {'; '.join(report.problems)}")
    )
    return told


def written(path: Path, server: str) -> dict[str, str]:
    """What the document says of a server."""
    text = path.read_text() if path.exists() else ""
    section = text.partition(f"<!-- matrix-{server} -->")[2].partition(f"<!-- /matrix-{server} -->")[0]
    rows = {told[2:].partition(" ")[0]: told for told in section.splitlines() if told.startswith("| ")}
    runs = {told[3:].partition("*")[0]: told for told in section.splitlines() if told.startswith("- *")}
    return rows | runs


def table(server: str, told: Mapping[str, str]) -> str:
    """The section of a server."""
    return "\n".join([
        f"### {server}",
        "",
        f"{machine.described()}.",
        "",
        *(told[name] for name in (PROCESSES, SERVER, START) if name in told),
        "",
        "| # | fault | measured | lost | phantom | duplicate | inverted | recovery p50, s | max, s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(told[row.number] for row in ROWS if row.number in told),
        "",
        f"What the claim needs: {SETTINGS[server]}.",
    ])  # fmt: skip


@click.command()
@click.option(
    "--server", "servers", multiple=True, type=click.Choice(list(SERVERS)), help="Only this one; also several."
)
@click.option("--run", "wanted", multiple=True, type=click.Choice([PROCESSES, SERVER, START]), help="Only this run.")
@click.option("--events", default=1000, show_default=True, type=click.IntRange(100), help="How many in each run.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Chooses who suffers what where.")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Put the tables into this document.")
def main(servers: Sequence[str], wanted: Sequence[str], events: int, seed: int, write: Path | None) -> None:
    """Run, say what came of it; exit code 1 where something does not hold."""
    failed = False
    for server in servers or SERVERS:
        if missing := SERVERS[server].needs():
            click.echo(f"{server} is left out: {missing}", err=True)
            continue
        for name, what in plans(server, events, seed).items():
            if wanted and name not in wanted:
                continue
            with tempfile.TemporaryDirectory(dir=machine.disk()) as folder, contextlib.chdir(folder):
                report, connects = asyncio.run(run(server, what, Path(folder)))
            click.echo("\n  ".join([f"{server} {name}: {report.line}", *report.problems]), err=True)
            failed = failed or not report.ok
            if write is not None:
                replace_section(write, "matrix-brokers", f"## Brokers that are servers\n\n{METHOD}")
                told = written(write, server) | lines(name, report, connects)
                replace_section(write, f"matrix-{server}", table(server, told))
    sys.exit(failed)


if __name__ == "__main__":
    main()
