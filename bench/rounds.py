"""How measures are taken, whatever they measure.

Every round of either side is a process of its own, with files of its own; the two sides take turns (ours, raw, ours,
raw, ...), so that a slow minute of the disk meets both. A figure is the median of its rounds.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import msgspec

from bench.measure import Also, Goal, Measure
from bench.reading import Reading, Task

ROOT = Path(__file__).parents[1]
ROUND_LIMIT = 300.0
LONG_LIMIT = 3600.0

Progress = Callable[[str], None]
Pending = Callable[[], Reading]


class Row(msgspec.Struct, frozen=True):
    """One line of the result: medians, and ours / raw; these two are None where there is no raw twin."""

    measure: str
    ours: float
    raw: float | None
    ratio: float | None
    unit: str


class Outcome(msgspec.Struct, frozen=True):
    """A row, what it was measured for, and the readings behind it."""

    row: Row
    what: str
    goal: Goal
    ours: Sequence[Reading]
    raw: Sequence[Reading]

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.goal.met(self.row.ours, self.row.ratio)


def measured(name: str, measure: Measure, *, rounds: int, task: Task, progress: Progress) -> Iterator[Outcome]:
    """The outcome of a measure, and of what else its rounds read."""
    if measure.prepare is not None:
        progress(f"{name}: preparing")
        measure.prepare(task)
    ours: list[Reading] = []
    raw: list[Reading] = []
    limit = LONG_LIMIT if measure.long else ROUND_LIMIT
    begin = partial(_begun if measure.together else _put_off, task=task, limit=limit)
    sides = ("ours", "raw") if measure.raw is not None else ("ours",)
    for index, pending in enumerate([[begin(name, side) for side in sides] for _ in range(rounds)], 1):
        for taken, reading in zip((ours, raw), pending, strict=False):
            taken.append(reading())
        told = ", ".join(f"{side} {_told(taken[-1])}" for side, taken in zip(sides, (ours, raw), strict=False))
        progress(f"{name} {index}/{rounds}: {told} {measure.unit}")
    yield Outcome(_row(name, measure.unit, ours, raw), measure.what, measure.goal, ours, raw)
    for also in measure.also:
        further = [[_further(also, reading) for reading in side] for side in (ours, raw)]
        yield Outcome(_row(also.name, also.unit, *further), also.what, also.goal, *further)


def _further(also: Also, reading: Reading) -> Reading:
    return Reading(reading.more[also.figure], reading.more[also.cpu] if also.cpu else 0.0)


def _row(name: str, unit: str, ours: Sequence[Reading], raw: Sequence[Reading]) -> Row:
    one = statistics.median(reading.value for reading in ours)
    if not raw:
        return Row(name, one, None, None, unit)
    other = statistics.median(reading.value for reading in raw)
    return Row(name, one, other, one / other, unit)


def _told(reading: Reading) -> str:
    cpu = f" ({reading.cpu:.2f} us of CPU an event)" if reading.cpu else ""
    return f"{reading.value:,.4g}{cpu}"


def round_of(name: str, side: str, task: Task, limit: float = ROUND_LIMIT) -> Reading:
    """One round, in a process of its own, where the measure has been prepared. Raises click.ClickException."""
    return _begun(name, side, task, limit)()


def _put_off(name: str, side: str, task: Task, limit: float) -> Pending:
    """A round that begins when its reading is asked for."""
    return partial(round_of, name, side, task, limit)


def _begun(name: str, side: str, task: Task, limit: float) -> Pending:
    """A round that has begun, in a process of its own. Its reading raises click.ClickException where it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=task.shared))
    words = [name, side, str(folder), str(task.shared), str(task.scale), task.server]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.child", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def reading() -> Reading:
        try:
            told, complaint = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise click.ClickException(f"{name}, {side}: the round was not over after {limit:g} s") from None
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)
        if process.returncode:
            raise click.ClickException(f"{name}, {side}: the round failed\n{complaint}")
        return msgspec.json.decode(told.splitlines()[-1], type=Reading)

    return reading
