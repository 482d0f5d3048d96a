"""The embedded broker beside the raw loop."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench import machine
from bench.measures import MEASURES
from bench.reading import Task
from bench.rounds import Outcome, Progress, measured


def chosen(names: Sequence[str], full: bool) -> list[str]:
    """The measures to run: those named, or all. Raises click.BadParameter for a name that is not known."""
    if unknown := [name for name in names if name not in MEASURES]:
        raise click.BadParameter(f"there is no measure {unknown[0]!r}; there are: {', '.join(MEASURES)}")
    return list(names) or [name for name, measure in MEASURES.items() if full or not measure.long]


def run(names: Sequence[str], *, rounds: int, scale: float, progress: Progress) -> list[Outcome]:
    """Measure these, `rounds` times each side, in temporary folders that are removed."""
    parent = machine.disk()
    progress(f"in {parent} ({machine.file_system(parent)}), {rounds} rounds")
    machine.warn(progress)
    with tempfile.TemporaryDirectory(prefix="tidings-bench-", dir=parent) as folder:
        task = Task(Path(folder), Path(folder), scale)
        return [
            outcome
            for name in names
            for outcome in measured(name, MEASURES[name], rounds=rounds, task=task, progress=progress)
        ]
