"""docs/performance.md: sections that commands write, each between its own marks."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.peers import compare
from bench.reading import Reading
from bench.rounds import Outcome

HEAD = """# What it costs

Written by `tidings bench`, not by hand: run the commands below, and the sections are replaced by what your machine
says.

"""
METHOD = """\
How: each figure stands beside a hand-written loop (`bench/raw.py`: the standard library's `sqlite3` and msgspec) on the
same tables, with the same event (about 350 bytes of JSON), the same pragmas and the same durability: what is
acknowledged has been through fsync (`synchronous=FULL`). The loop is as fast as straightforward code gets; it has no
groups, retries, validation, leases, traces or metrics. Every round of either is a process with files of its own; the
two take turns, {rounds} rounds each; the figures are medians, with the lowest and the highest behind them. Disks and
neighbours vary by factors from minute to minute, so trust the ratio. CPU is user and system time of all threads of
the process, in µs an event (for `end_to_end` that of the consuming process).

Run it: `make bench`, or `tidings bench embedded --full --write docs/performance.md` in a checkout.
`--measure NAME` runs one, `--json` prints a list for programs."""

PEERS_METHOD = """\
The same order, as the type that the library likes (FastStream: a dataclass checked by pydantic). `publish_1` and
`publish_100`: so many coroutines that each await their own; `consume`: a backlog of typed events and a handler that
does nothing, acknowledged after it; `consume_batches`: the library hands it lists (tidings: one by one all the same,
it batches the acknowledgements by itself). All acknowledge after fsync: JetStream with `sync_interval: always`,
Valkey with `appendfsync always`, huey with `fsync=True`, litequeue with `synchronous=FULL`; few of them do so by
default. CPU is that of the client's process: a server's comes on top. What they are made for differs: huey and
litequeue hand a task to one worker, FastStream speaks to brokers that serve many machines. In turn within every
round; medians.

Run it: `tidings bench peers --write docs/performance.md` in a checkout; it makes an environment of its own in
`bench/peers/.venv`."""

BROKERS_METHOD = """\
How: real servers, started for the run on this machine and durable as `tidings dev up` starts them (JetStream with
`sync_interval: always`, Valkey with `appendfsync always`, quorum queues, Kafka with `acks=all`). Beside ours stands
what one would write by hand with the plain client and msgspec (`bench/brokers/`, one small file a server):
confluent-kafka, nats-py, pika, redis-py with hiredis, psycopg. It publishes as many at once and takes as many at once,
with overlapping pulls or prefetch and one acknowledgement for a batch; it has no groups that are counted out to
several members, no attempts, retries, dead letters, headers, traces or metrics. Every round of either is a process of
its own; the two take turns, {rounds} rounds each; the figures are medians, with the lowest and the highest behind them.
Consuming is counted from the first batch to the last acknowledgement. Servers and clients share the cores, so rates
vary with neighbours and with the disk: `_cpu` is what a second of the client's own processor does, and CPU is user and
system time of all threads of the process in µs an event. `faststream` is FastStream in an environment of its own with
its defaults, beside ours in the same run.

Run it: `tidings bench brokers --full --write docs/performance.md` in a checkout, or `make bench WHAT=brokers`.
`--only nats,kafka.latency` runs some, `--scale 0.1` does so with a tenth of the events, `--json` prints a list for
programs. A server that is not installed is left out, with a sentence."""


def write_embedded(path: Path, outcomes: Sequence[Outcome], busy: float) -> None:
    """Replace the section of the embedded broker. `busy`: the load of the machine before the run."""
    rounds = max(len(outcome.ours) for outcome in outcomes)
    body = [f"## The embedded broker\n\n{_stamp(busy)}\n", _table(outcomes), "", METHOD.format(rounds=rounds)]
    replace_section(path, "embedded", "\n".join(body))


def write_brokers(path: Path, outcomes: Sequence[Outcome], busy: float) -> None:
    """Replace the section of the servers. `busy`: the load of the machine before the run."""
    rounds = max(len(outcome.ours) for outcome in outcomes)
    body = [f"## Servers\n\n{_stamp(busy)}\n", _table(outcomes), "", BROKERS_METHOD.format(rounds=rounds)]
    replace_section(path, "brokers", "\n".join(body))


def write_peers(path: Path, rows: Sequence[compare.Row], busy: float) -> None:
    """Replace the section of the peers. `busy`: the load of the machine before the run."""
    head = "| work | library | events/s | CPU, µs an event | tidings, events/s | CPU | tidings / library |"
    rule = "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    lines = [
        f"| {row.work} | {row.peer} | {figure(row.rate)} | {row.cpu:.0f} | {figure(row.ours)} | {row.ours_cpu:.0f} "
        f"| {row.ratio:.1f} |"
        for row in rows
    ]
    body = [f"## Beside others\n\n{_stamp(busy)}\n", head, rule, *lines, "", PEERS_METHOD]
    replace_section(path, "peers", "\n".join(body))


def replace_section(path: Path, name: str, body: str) -> None:
    """Put `body` between the marks of its section; the rest of the file stays as it is."""
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found else ""
    if not found:
        before = before.rstrip() + "\n\n"
    path.write_text(f"{before}{begin}{body.strip()}\n{end}{after}", encoding="utf-8")


def _stamp(busy: float) -> str:
    return f"{datetime.datetime.now(datetime.UTC).date()}; {machine.described()}; load of others {busy:.1f}."


def _table(outcomes: Sequence[Outcome]) -> str:
    head = "| measure | ours | raw | unit | better | ours / raw | to reach | CPU ours : raw |"
    rule = "| --- | ---: | ---: | --- | --- | ---: | --- | ---: |"
    meanings = {outcome.row.measure.partition(".")[2] or outcome.row.measure: outcome.what for outcome in outcomes}
    said = [f"- `{name}`: {what}" for name, what in meanings.items()]
    return "\n".join([head, rule, *map(_line, outcomes), "", *said])


def _line(outcome: Outcome) -> str:
    row, goal = outcome.row, outcome.goal
    cells = (
        f"`{row.measure}`",
        f"{figure(row.ours)} {_spread(outcome.ours)}",
        "" if row.raw is None else f"{figure(row.raw)} {_spread(outcome.raw)}",
        row.unit,
        "more" if goal.at == "least" else "less",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        f"{goal}: {'reached' if outcome.met else '**not reached**'}",
        _cpu(outcome),
    )
    return f"| {' | '.join(cells)} |"


def figure(value: float) -> str:
    """Four digits that count, thousands apart."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _spread(readings: Sequence[Reading]) -> str:
    values = [reading.value for reading in readings]
    return f"({figure(min(values))} to {figure(max(values))})"


def _cpu(outcome: Outcome) -> str:
    medians = [statistics.median(reading.cpu for reading in side) for side in (outcome.ours, outcome.raw) if side]
    return " : ".join(f"{cpu:.1f}" for cpu in medians) if all(medians) else ""
