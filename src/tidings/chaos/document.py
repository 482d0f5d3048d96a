"""The section of a document with the figures of runs: a row for each kind of run, the others stay as they are."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from tidings.chaos.ledger import Report, mib, shown

BEGIN, END = "<!-- chaos -->\n", "<!-- /chaos -->\n"
TITLE = "## Real processes that are killed"
HEAD = (
    "| profile, events, faults | acked + unknown | effects once | lost | phantom | duplicate | inverted | dead | "
    "pending | deliveries mean, max | first effect p50, max, s | takeover, s | drained, s | worker, WAL, database "
    "| took, s |"
)
METHOD = """\
Each row is one run of `tidings chaos run`: publishers with an fsynced journal, workers, and effects in the user's own
table, which refuses no duplicate. Processes are killed with `kill -9` at named places of the engine and at moments by
chance, frozen past their lease, and told to stop; every planned fault has happened. *Unknown* was attempted by a
publisher that was killed before it heard of the acknowledgement. *First effect* is how long after the kill of a worker
a key that it worked on stood still; *takeover* the same for a frozen one, whose lease has to end first. The sizes are
the most that were seen; *worker* is the memory of one process.

Write the rows anew with `tidings chaos run --write FILE` and the profile, `--events` and `--kills` of the row."""


def write(path: Path, reports: Sequence[Report]) -> None:
    """Put the runs into the document, between the marks of its section; a row of the same kind is replaced."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# What it withstands\n"
    before, found, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END) if found else ("", "", "")
    rows = {_kind(line): line for line in old.splitlines() if line.startswith("| `")}
    rows |= {_kind(line): line for line in map(row, reports)}
    rule = "| --- |" + " ---: |" * (HEAD.count("|") - 2)
    body = "\n".join([TITLE, "", f"{machine()}.", "", HEAD, rule, *sorted(rows.values(), key=_order), "", METHOD])
    path.write_text(
        f"{before if found else before.rstrip() + chr(10) * 2}{BEGIN}{body}\n{END}{after}", encoding="utf-8"
    )


def row(report: Report) -> str:
    """One run as a line of the table."""
    sizes = f"{mib(report.memory_peak)}, {mib(report.wal_peak)}, {mib(report.database_peak)}"
    verdict = "" if report.ok else ", **FAILED**"
    cells = [
        f"`{report.profile}`, {report.events:,}, {sum(report.faults.values())}{verdict}",
        f"{report.acked:,} + {report.unknown:,}",
        f"{report.effects_once:,}",
        *(f"{count:,}" for count in (report.lost, report.phantom, report.duplicate_effects, report.inversions)),
        f"{report.dead:,}",
        f"{report.pending:,}",
        f"{report.deliveries_mean:.2f}, {report.deliveries_max}",
        f"{shown(report.first_effect_p50)}, {shown(report.first_effect_max)}",
        shown(report.takeover_max),
        shown(report.drained),
        sizes,
        f"{report.seconds:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """The kind of machine: no host name, no path."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}"
    )


def _kind(line: str) -> str:
    """Profile and size: what makes two rows of the same kind."""
    return ",".join(line.split("|")[1].replace(", ", ";").split(";")[:2])


def _order(line: str) -> tuple[str, int]:
    name, _, events = _kind(line).partition(",")
    return name, int(events.replace(",", ""))
