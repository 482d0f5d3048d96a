"""A journey is recorded in a process of its own; then every state of every crash point is judged."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tests.storage.disk import Moment, moments, states
from tests.storage.judge import Judge
from tests.storage.tape import Entry, Mark, kept

ROOT = Path(__file__).parents[2]
LENT_LATER = struct.pack("<1024q", *[1 << 40] * 1024)
"""A `.lent` beside an older file than it was written for, as after a copy was restored."""


class Survey(msgspec.Struct):
    """What was found. `worked` are the states with which a broker and a member also went on."""

    syncs: int = 0
    states: int = 0
    worked: int = 0
    corrupt: int = 0
    states_with_loss: int = 0
    worst_loss: int = 0
    wrong: int = 0
    damages: Counter[str] = msgspec.field(default_factory=Counter)
    examples: dict[str, str] = msgspec.field(default_factory=dict)


def folder_in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder for files that are thrown away at once, without a disk where there is /dev/shm."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="tidings-", dir=memory if os.access(memory, os.W_OK) else None)


def run(module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a module of this package in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}
    command = [sys.executable, "-m", f"tests.storage.{module}", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)
    if check and done.returncode:
        raise AssertionError(f"{module} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def record(*options: str) -> list[Entry]:
    """The tape of a journey. Options are those of `journey.py`."""
    with folder_in_memory() as folder:
        (files := Path(folder) / "files").mkdir()
        run("journey", str(files), str(Path(folder) / "tape"), *options)
        return whole(kept(Path(folder) / "tape"))


def whole(tape: list[Entry]) -> list[Entry]:
    """Without what came after the last commit that had returned: of the one after it there is no dump."""
    last = max(place for place, entry in enumerate(tape) if entry[0] == "committed" and isinstance(entry, Mark))
    return tape[: last + 1]


async def survey(
    tape: Sequence[Entry], *, samples: int, lives: int, each: Callable[[Moment], None] = lambda _: None
) -> Survey:
    """Judge the states of all moments: of each, `lives` also by going on. `each` hears of every moment."""
    found = Survey()
    with folder_in_memory() as folder:
        judge = Judge(Path(folder), tape)
        for moment in moments(tape):
            found.syncs += 1
            each(moment)
            for number, state in enumerate(states(moment, samples)):
                verdict = judge.look(state)
                wrong = verdict.wrong
                if number < lives and not wrong:
                    found.worked += 1
                    wrong = await judge.live(state, (b"", LENT_LATER)[(moment.number + number) % 2])
                found.states += 1
                found.damages[state.damage] += 1
                found.corrupt += verdict.corrupt
                found.states_with_loss += verdict.missing > 0
                found.worst_loss = max(found.worst_loss, verdict.missing)
                if wrong:
                    found.wrong += 1
                    found.examples.setdefault(wrong, f"sync {moment.number} of {moment.file}: {state.damage}")
    return found
