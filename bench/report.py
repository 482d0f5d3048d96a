"""docs/performance.md: sections that commands write, each between its own marks."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.embedded import Outcome
from bench.reading import Reading

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


def write_embedded(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Replace the section of the embedded broker."""
    rounds = max(len(outcome.ours) for outcome in outcomes)
    body = [f"## The embedded broker\n\n{_stamp()}\n", _table(outcomes), "", METHOD.format(rounds=rounds)]
    replace_section(path, "embedded", "\n".join(body))


def replace_section(path: Path, name: str, body: str) -> None:
    """Put `body` between the marks of its section; the rest of the file stays as it is."""
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found else ""
    if not found:
        before = before.rstrip() + "\n\n"
    path.write_text(f"{before}{begin}{body.strip()}\n{end}{after}", encoding="utf-8")


def _stamp() -> str:
    return f"{datetime.datetime.now(datetime.UTC).date()}; {machine.described()}."


def _table(outcomes: Sequence[Outcome]) -> str:
    head = "| measure | ours | raw | unit | better | ours / raw | to reach | CPU ours : raw |"
    rule = "| --- | ---: | ---: | --- | --- | ---: | --- | ---: |"
    said = [f"- `{outcome.row.measure}`: {outcome.what}" for outcome in outcomes]
    return "\n".join([head, rule, *map(_line, outcomes), "", *said])


def _line(outcome: Outcome) -> str:
    row, goal = outcome.row, outcome.goal
    cells = (
        f"`{row.measure}`",
        f"{figure(row.ours)} {_spread(outcome.ours)}",
        f"{figure(row.raw)} {_spread(outcome.raw)}",
        row.unit,
        "more" if goal.at == "least" else "less",
        f"{row.ratio:.2f}",
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
    ours, raw = (statistics.median(reading.cpu for reading in side) for side in (outcome.ours, outcome.raw))
    return f"{ours:.1f} : {raw:.1f}" if raw else ""
