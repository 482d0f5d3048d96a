"""The embedded broker beside the raw loop: how the rounds are run.

Every round of either side is a process of its own, with files of its own; the two sides take turns (ours, raw, ours,
raw, ...), so that a slow minute of the disk meets both. A figure is the median of its rounds.
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

from bench import machine
from bench.measures import MEASURES, Goal
from bench.reading import Reading, Task

ROOT = Path(__file__).parents[1]
ROUND_LIMIT = 300.0
BUSY = 0.7

Progress = Callable[[str], None]
Pending = Callable[[], Reading]


class Row(msgspec.Struct, frozen=True):
    """One line of the result: medians, and ours / raw."""

    measure: str
    ours: float
    raw: float
    ratio: float
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
        return self.goal.met(self.row.ours, self.row.raw)


def chosen(names: Sequence[str], full: bool) -> list[str]:
    """The measures to run: those named, or all. Raises click.BadParameter for a name that is not known."""
    if unknown := [name for name in names if name not in MEASURES]:
        raise click.BadParameter(f"there is no measure {unknown[0]!r}; there are: {', '.join(MEASURES)}")
    return list(names) or [name for name, measure in MEASURES.items() if full or not measure.long]


def run(names: Sequence[str], *, rounds: int, scale: float, progress: Progress) -> list[Outcome]:
    """Measure these, `rounds` times each side, in temporary folders that are removed."""
    parent = machine.disk()
    progress(f"in {parent} ({machine.file_system(parent)}), {rounds} rounds")
    if machine.busy() > BUSY:
        progress(f"the machine is busy (load {machine.busy():.1f}): trust the CPU, little else, and no latency")
    with tempfile.TemporaryDirectory(prefix="tidings-bench-", dir=parent) as folder:
        task = Task(Path(folder), Path(folder), scale)
        return [outcome for name in names for outcome in _measure(name, rounds, task, progress)]


def round_of(name: str, side: str, task: Task) -> Reading:
    """One round, in a process of its own, where the measure has been prepared. Raises click.ClickException."""
    return _begun(name, side, task)()


def _measure(name: str, rounds: int, task: Task, progress: Progress) -> list[Outcome]:
    measure = MEASURES[name]
    if measure.prepare is not None:
        progress(f"{name}: preparing")
        measure.prepare(task)
    ours: list[Reading] = []
    raw: list[Reading] = []
    begin = _begun if measure.together else _put_off
    pairs = [(begin(name, "ours", task), begin(name, "raw", task)) for _ in range(rounds)]
    for index, (one, other) in enumerate(pairs, 1):
        ours.append(one())
        raw.append(other())
        progress(f"{name} {index}/{rounds}: ours {_told(ours[-1])}, raw {_told(raw[-1])} {measure.unit}")
    outcomes = [Outcome(_row(name, measure.unit, ours, raw), measure.what, measure.goal, ours, raw)]
    for also in measure.also:
        sides = [[Reading(reading.more[also.figure]) for reading in side] for side in (ours, raw)]
        outcomes.append(Outcome(_row(also.name, also.unit, *sides), also.what, also.goal, *sides))
    return outcomes


def _row(name: str, unit: str, ours: Sequence[Reading], raw: Sequence[Reading]) -> Row:
    one, other = (statistics.median(reading.value for reading in side) for side in (ours, raw))
    return Row(name, one, other, one / other, unit)


def _told(reading: Reading) -> str:
    cpu = f" ({reading.cpu:.2f} us of CPU an event)" if reading.cpu else ""
    return f"{reading.value:,.4g}{cpu}"


def _put_off(name: str, side: str, task: Task) -> Pending:
    """A round that begins when its reading is asked for."""
    return partial(round_of, name, side, task)


def _begun(name: str, side: str, task: Task) -> Pending:
    """A round that has begun, in a process of its own. Its reading raises click.ClickException where it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=task.shared))
    command = [sys.executable, "-m", "bench.child", name, side, str(folder), str(task.shared), str(task.scale)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def reading() -> Reading:
        try:
            told, complaint = process.communicate(timeout=ROUND_LIMIT)
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)
        if process.returncode:
            raise click.ClickException(f"{name}, {side}: the round failed\n{complaint}")
        return msgspec.json.decode(told.splitlines()[-1], type=Reading)

    return reading
