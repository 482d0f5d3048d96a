"""The measures of servers, each on a server of its own that is started here, on a disk, and ended after them."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from bench import machine
from bench.brokers.measures import KINDS, MEASURES
from bench.reading import Task
from bench.rounds import Outcome, Progress, measured
from tidings import dev


def chosen(only: Sequence[str], full: bool) -> list[str]:
    """The measures of these servers, or of all that are installed; a measure may be named too.

    Raises click.BadParameter for a name that is not known, click.ClickException for one that cannot run here.
    """
    names = [name for name, measure in MEASURES.items() if full or not measure.long]
    if not only:
        return [name for name in names if _missing(_server_of(name)) is None]
    for one in only:
        if one not in KINDS and one not in MEASURES:
            raise click.BadParameter(f"there is no {one!r}; there are: {', '.join([*KINDS, *MEASURES])}")
        if (missing := _missing(_server_of(one))) is not None:
            raise click.ClickException(missing)
    return [name for name in MEASURES if name in only or (name in names and _server_of(name) in only)]


def left_out() -> list[str]:
    """Why a server is not measured, a sentence each."""
    return [missing for kind in KINDS if (missing := _missing(kind)) is not None]


def steps(names: Sequence[str], rounds: int) -> int:
    """How often `run` says something."""
    return sum(rounds + (MEASURES[name].prepare is not None) for name in names)


def run(names: Sequence[str], *, rounds: int, scale: float, progress: Progress) -> list[Outcome]:
    """Measure these, `rounds` times each side, server by server."""
    outcomes: list[Outcome] = []
    for kind in dict.fromkeys(map(_server_of, names)):
        own = [name for name in names if _server_of(name) == kind]
        with _serving(kind, scale) as task:
            for name in own:
                outcomes += measured(name, MEASURES[name], rounds=rounds, task=task, progress=progress)
    return outcomes


@contextmanager
def _serving(kind: str, scale: float) -> Iterator[Task]:
    with tempfile.TemporaryDirectory(prefix="tidings-bench-", dir=machine.disk()) as name:
        folder = Path(name)
        with getattr(dev, KINDS[kind].server)(folder / kind) as server:
            yield Task(folder, folder, scale, server.url)


def _server_of(name: str) -> str:
    return name.partition(".")[0]


def _missing(kind: str) -> str | None:
    """What is not installed, as a sentence with the remedy."""
    try:
        importlib.import_module(f"bench.brokers.{kind}")
    except ImportError as error:
        return f"{kind}: its plain client {error.name} is not installed: pip install -e '.[dev]'"
    needs: str | None = getattr(dev, KINDS[kind].server).needs()
    return needs
