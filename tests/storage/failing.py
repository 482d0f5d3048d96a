"""The disk fails once: the n-th write or sync gives an I/O error, for every n, and all goes well from there on.

That is the treacherous kind: after a failed fsync the kernel takes what was lost for written, so a program that tries
again is told that all is well. `python -m tests.storage.failing KIND [--first N] [--step N]`, in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

from tests.storage.journey import FILE, NEVER, Dump, Journey, dump, listen
from tests.storage.judge import ids
from tests.storage.survey import folder_in_memory
from tests.storage.tape import Mark, Sync, Tape, Write
from tests.storage.vfs import IOERR_FSYNC, IOERR_WRITE, OK, between
from tidings.brokers import sqlite
from tidings.errors import StorageBroken, TidingsError

ENTRIES = {"write": (Write, IOERR_WRITE), "sync": (Sync, IOERR_FSYNC)}
PATIENCE = 60.0
FAILED, CLOSING = "failed", "closing"


class Failing(Tape):
    """A disk of which the `number`-th write or sync fails."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__()
        self._kind, self._code = ENTRIES[kind]
        self._left = number

    def write(self, file: str, offset: int, data: bytes) -> int:
        """See Disk.write."""
        return super().write(file, offset, data) or self._passes()

    def sync(self, file: str) -> int:
        """See Disk.sync."""
        return super().sync(file) or self._passes()

    def _passes(self) -> int:
        if not isinstance(self.entries[-1], self._kind):
            return OK
        self._left -= 1
        if self._left:
            return OK
        self.mark(FAILED)
        return self._code

    def has(self, mark: str) -> bool:
        """Whether this was marked."""
        return mark in self.marks

    @property
    def marks(self) -> list[str]:
        """The names of all marks, in order."""
        return [entry.name for entry in self.entries if isinstance(entry, Mark)]

    @property
    def failed_at_work(self) -> bool:
        """Whether it has failed, and not while the file was being opened."""
        return self.has(FAILED) and "opened" in self.marks[: self.marks.index(FAILED)]

    @property
    def told(self) -> set[str]:
        """What was acknowledged."""
        return {id for entry in self.entries if isinstance(entry, Mark) and entry.name == "published"
                for id in entry.value}  # fmt: skip

    @property
    def last(self) -> Dump:
        """What the last commit left."""
        commits = [entry.value for entry in self.entries if isinstance(entry, Mark) and entry.name == "committed"]
        return commits[-1] if commits else {}

    def after_the_failure(self) -> list[str]:
        """Files that were written or synced between the failure and the end of the program."""
        names = [entry.name if isinstance(entry, Mark) else "" for entry in self.entries]
        end = names.index(CLOSING) if CLOSING in names else len(names)
        return [entry.file for entry in self.entries[names.index(FAILED) : end] if isinstance(entry, Write | Sync)]


async def go(journey: Journey, tape: Failing) -> str:
    """Work until something fails; then nothing more may be written. Returns what is wrong, or an empty text."""
    outcome = ""
    try:
        await journey.short()
    except TidingsError as error:
        outcome = "" if isinstance(error.__cause__ or error, StorageBroken | sqlite3.Error) else f"raised {error!r}"
    if tape.failed_at_work:
        try:
            await journey.broker.publish(journey.records(1))
            outcome = "it went on"
        except StorageBroken:
            outcome = outcome or await waiting(journey)
    tape.mark(CLOSING)
    with contextlib.suppress(AttributeError):  # it was never opened
        await journey.store.close()
    with contextlib.suppress(AttributeError):
        await journey.broker.close()
    return outcome


async def waiting(journey: Journey) -> str:
    """A member that only waits for more is told too, and soon."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                await journey.group.fetch(10, PATIENCE)
    except TimeoutError:
        return "who waits was not told"
    except (StorageBroken, AttributeError):  # it never came to joining
        return ""


def found_wrong(path: Path, tape: Failing) -> str:
    """What is wrong with the file that is left."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return "corrupt"
        found = dump(connection)
    if missing := tape.told - ids(found):
        return f"acknowledged and missing: {sorted(missing)[:3]}"
    if any(id.startswith(NEVER) for id in ids(found)):
        return "what was rolled back is there"
    if not ids(tape.last) <= ids(found):
        return "what was committed is missing"
    return ""


def one(kind: str, number: int, folder: Path) -> tuple[bool, str]:
    """A run with a fault; whether it happened, and what is wrong."""
    tape = Failing(kind, number)
    listen(tape, folder / FILE)
    with between(tape), asyncio.Runner() as runner:
        wrong = runner.run(go(Journey(folder, tape), tape))
    if not tape.has(FAILED):
        return False, wrong
    if tape.failed_at_work and (later := tape.after_the_failure()):
        wrong = wrong or f"written after the failure: {later[:3]}"
    return True, wrong or found_wrong(folder / FILE, tape)


def main() -> None:
    """Say how many runs there were and what was wrong in how many, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=ENTRIES)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--step", type=int, default=1)
    arguments = parser.parse_args()
    wrong: Counter[str] = Counter()
    runs = 0
    sqlite.TICK = 0.05  # how soon those who wait are told
    with folder_in_memory() as parent:
        for number in itertools.count(arguments.first, arguments.step):
            (folder := Path(parent) / "files").mkdir()
            failed, text = one(arguments.kind, number, folder)
            shutil.rmtree(folder)
            if text:
                wrong[f"{text} ({arguments.kind} {number})"] += 1
            if not failed:
                break
            runs += 1
    print(json.dumps({"runs": runs, "wrong": wrong}))


if __name__ == "__main__":
    main()
