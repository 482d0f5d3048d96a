"""The embedded broker beside the raw loop: what is measured, and how the rounds are run.

Each measure is a pair of functions that do the same work. Every round of either is a process of its own, with files
of its own; the two sides take turns (ours, raw, ours, raw, ...), so that a slow minute of the disk meets both. The
figure is the median of the rounds.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import msgspec

from bench import consume, publish
from bench.reading import Reading, Task

ROOT = Path(__file__).parents[1]
ROUND_LIMIT = 300.0

Round = Callable[[Task], Reading]
Progress = Callable[[str], None]


class Measure(msgspec.Struct, frozen=True):
    """What is measured, and the two sides of it. `goal` says what the ratio (or ours) is to reach."""

    unit: str
    goal: str
    ours: Round
    raw: Round
    prepare: Callable[[Task], None] | None = None
    long: bool = False


class Row(msgspec.Struct, frozen=True):
    """One line of the result: medians, and ours / raw."""

    measure: str
    ours: float
    raw: float
    ratio: float
    unit: str


class Outcome(msgspec.Struct, frozen=True):
    """A row with the readings behind it."""

    row: Row
    goal: str
    ours: Sequence[Reading]
    raw: Sequence[Reading]


RATE = "events/s"
MEASURES: dict[str, Measure] = {
    **{
        f"publish_{publishers}": Measure(
            RATE,
            "ratio >= 0.65",
            partial(publish.ours, publishers=publishers),
            partial(publish.by_hand, publishers=publishers),
        )
        for publishers in (1, 100, 1000)
    },
    "publish_many": Measure(RATE, "ratio >= 0.65", publish.ours_many, publish.by_hand_many),
    "consume_async": Measure(
        RATE,
        "ratio >= 0.60",
        partial(consume.ours, handler=consume.handle_async),
        partial(consume.by_hand, handler=consume.handle_async),
        consume.backlog,
    ),
    "consume_sync": Measure(
        RATE,
        "ratio >= 0.65",
        partial(consume.ours, handler=consume.handle_sync),
        partial(consume.by_hand, handler=consume.handle_sync),
        consume.backlog,
    ),
    "sql_and_publish": Measure(RATE, "ratio >= 0.60", consume.ours_sql, consume.by_hand_sql),
}


def chosen(names: Sequence[str], full: bool) -> list[str]:
    """The measures to run: those named, or all. Raises click.BadParameter for a name that is not known."""
    if unknown := [name for name in names if name not in MEASURES]:
        raise click.BadParameter(f"there is no measure {unknown[0]!r}; there are: {', '.join(MEASURES)}")
    return list(names) or [name for name, measure in MEASURES.items() if full or not measure.long]


def run(names: Sequence[str], *, rounds: int, scale: float, progress: Progress) -> list[Outcome]:
    """Measure these, `rounds` times each side, in temporary folders that are removed."""
    with tempfile.TemporaryDirectory(prefix="tidings-bench-") as folder:
        return [_measure(name, rounds, scale, Path(folder), progress) for name in names]


def _measure(name: str, rounds: int, scale: float, folder: Path, progress: Progress) -> Outcome:
    measure = MEASURES[name]
    if measure.prepare is not None:
        measure.prepare(Task(folder, folder, scale))
    ours: list[Reading] = []
    raw: list[Reading] = []
    for index in range(rounds):
        ours.append(_round(name, "ours", folder, scale))
        raw.append(_round(name, "raw", folder, scale))
        progress(
            f"{name} {index + 1}/{rounds}: ours {ours[-1].value:,.6g} (cpu {ours[-1].cpu:.2f} us), "
            f"raw {raw[-1].value:,.6g} (cpu {raw[-1].cpu:.2f} us) {measure.unit}"
        )
    one, other = (statistics.median(reading.value for reading in side) for side in (ours, raw))
    return Outcome(Row(name, one, other, one / other, measure.unit), measure.goal, ours, raw)


def _round(name: str, side: str, shared: Path, scale: float) -> Reading:
    """One round in a process of its own. Raises RuntimeError with what it said where it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=shared))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.child", name, side, str(folder), str(shared), str(scale)],
            cwd=ROOT, capture_output=True, text=True, timeout=ROUND_LIMIT, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    if done.returncode:
        raise RuntimeError(f"{name}, {side}: the round failed\n{done.stderr}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Reading)
