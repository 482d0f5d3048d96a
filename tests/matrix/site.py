"""Where a row happens: a folder with a database of its own, real worker processes, and what they leave behind.

The app of a row is the module-level `app` of its module, started with `tidings run` in the row's folder. Effects are
counted where they happen: in a table of the user's own without a unique constraint, so that a duplicate shows, or in
rows of a Table. Each start and end of a handler is a line in a file, written outside of any transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
import time
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from tests.crash.evidence import pending
from tidings import App, Event
from tidings.embedded.database import Database

EFFECTS = """CREATE TABLE effects (place INTEGER PRIMARY KEY AUTOINCREMENT, handler TEXT NOT NULL, key TEXT NOT NULL,
    number INTEGER NOT NULL, pid INTEGER NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL)"""
EFFECT = "INSERT INTO effects (handler, key, number, pid, attempt, at) VALUES (?, ?, ?, ?, ?, ?)"
DEAD = """SELECT l.type, l.body, l.headers FROM tidings_log l JOIN tidings_topic t ON t.id = l.topic
    WHERE t.name = ? ORDER BY l.pos"""
NOTES = "notes"
Lifeline = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PATIENCE = 60.0
"""Seconds that anything may take on a busy machine before the row fails."""


class Effect(NamedTuple):
    """One effect, in the order of the commits. `at` is on the monotonic clock, the same for all processes."""

    handler: str
    key: str
    number: int
    pid: int
    attempt: int
    at: float


class Note(NamedTuple):
    """A line that a handler wrote: `begun` or `done`."""

    what: str
    key: str
    number: int
    attempt: int
    at: float


class Letter(NamedTuple):
    """A dead letter."""

    type: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def cause(self) -> str:
        """Why it was given up."""
        return f"{self.headers['deaderror']}: {self.headers['deadcause']}"

    @property
    def attempts(self) -> int:
        """How often it was lent."""
        return int(self.headers["deadattempts"])


# -- in a handler


def effect(db: sqlite3.Connection, handler: str, key: str, number: int, attempt: int = 1) -> None:
    """Count an effect, in the transaction of the handler."""
    db.execute(EFFECT, (handler, key, number, os.getpid(), attempt, time.monotonic()))


def note(what: str, key: str, number: int, attempt: int = 1) -> None:
    """Write down, at once, what a handler does."""
    file = os.open(NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, f"{what} {key} {number} {attempt} {time.monotonic()}\n".encode())
    finally:
        os.close(file)


# -- around it


class Worker:
    """A `tidings run` process, which ends when the row does, whatever becomes of the row."""

    def __init__(self, process: Process, lifeline: Lifeline, log: Path) -> None:
        self.process = process
        self.log = log
        self._lifeline = lifeline

    async def ready(self) -> None:
        """Until all its handlers listen."""
        async with asyncio.timeout(PATIENCE):
            while line := await self._lifeline[0].readline():
                if "ready" in json.loads(line):
                    return
        raise AssertionError(f"the worker ended before it was ready: {self.log.read_text()[-2000:]}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, when it has ended by itself."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
        self._lifeline[1].close()
        return code

    async def stop(self) -> int:
        """Tell it to stop; its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """At once."""
        self.signal(signal.SIGKILL)
        await self.ended()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def logged(self, part: str) -> list[str]:
        """The log messages that contain `part`."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line["message"] for line in map(json.loads, lines) if part in line["message"]]

    def peak(self) -> float:
        """The most memory that it has held (resident), in MB."""
        return self._status("VmHWM") / 1024

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Site:
    """A folder in which workers run the app of `module`. `settings` are those of tidings.toml."""

    def __init__(self, folder: Path, module: str, **settings: Any) -> None:
        self.folder = folder
        self.database = folder / "tidings.db"
        self.url = f"sqlite:{self.database}"
        self._module = module
        self._workers: list[Worker] = []
        (folder / "tidings.toml").write_text("".join(f"{name} = {json.dumps(it)}\n" for name, it in settings.items()))
        database = Database(self.database)
        database.open()
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute(EFFECTS)
        database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker.running:
                await worker.kill()

    # -- processes

    async def start(self, *arguments: str, **how: Any) -> Worker:
        """A worker process that is ready. How is said as for `launch`."""
        worker = await self.launch(*arguments, **how)
        await worker.ready()
        return worker

    async def launch(
        self,
        *arguments: str,
        module: str | None = None,
        python: str = sys.executable,
        limits: Mapping[int, int] = {},
        variables: Mapping[str, str] = {},
    ) -> Worker:
        """A worker process that is only just starting. `limits` are those of `resource.setrlimit`."""
        ours, theirs = socket.socketpair()
        log = self.folder / f"log-{len(self._workers)}"
        command = [python, "-m", "tidings", "run", f"{module or self._module}:app", "--log=json"]

        def limit() -> None:
            for what, most in limits.items():
                resource.setrlimit(what, (most, most))

        with theirs, log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *command, f"--lifeline={theirs.fileno()}", *arguments,
                cwd=self.folder, env=environment() | variables, stdout=out, stderr=out, pass_fds=[theirs.fileno()],
                preexec_fn=limit if limits else None,
            )  # fmt: skip
        self._workers.append(Worker(process, await asyncio.open_connection(sock=ours), log))
        return self._workers[-1]

    async def run(self, *command: str, stdin: bytes = b"") -> tuple[int, str]:
        """A `tidings` command in the folder: its exit code and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tidings", *command, cwd=self.folder, env=environment(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate(stdin)
        return process.returncode or 0, said.decode(errors="replace")

    @contextlib.asynccontextmanager
    async def publisher(self, **settings: Any) -> AsyncIterator[App]:
        """An app without handlers."""
        async with App("publisher", self.url, **settings) as app:
            yield app

    async def publish(self, events: Iterable[Event]) -> None:
        """All of them in one commit."""
        async with self.publisher() as app:
            await app.publish(*events)

    # -- what there is

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Of the database."""
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            return connection.execute(sql, values).fetchall()

    def effects(self, handler: str | None = None) -> list[Effect]:
        """In the order of their commits."""
        found = self.rows("SELECT handler, key, number, pid, attempt, at FROM effects ORDER BY place")
        return [Effect(*row) for row in found if handler in (None, row[0])]

    def tally(self, table: str) -> dict[str, list[int]]:
        """Rows of a Table of lists: what was appended to each key, in the order of the commits."""
        found = self.rows("SELECT key, value FROM tidings_row WHERE tbl = ?", table)
        return {key: msgspec.msgpack.decode(value) for key, value in found}

    def notes(self, what: str | None = None) -> list[Note]:
        """What handlers wrote down."""
        path = self.folder / NOTES
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Note(n[0], n[1], int(n[2]), int(n[3]), float(n[4])) for n in lines if what in (None, n[0])]

    def letters(self, handler: str) -> list[Letter]:
        """The dead letters of a handler."""
        found = self.rows(DEAD, f"dead.{handler}")
        return [Letter(type, body, msgspec.json.decode(headers)) for type, body, headers in found]

    @property
    def pending(self) -> int:
        """How many deliveries are still to be settled."""
        return pending(self.database)

    async def drained(self) -> None:
        """Until nothing is left to be settled."""
        await until(lambda: self.pending == 0)


def environment() -> dict[str, str]:
    """Ours, without our settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}


async def until(condition: Callable[[], object], pause: float = 0.02) -> None:
    """Wait for what other processes do, however long that takes on this machine."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - they set no event
            await asyncio.sleep(pause)


# -- what must hold


def doubled(numbers: Iterable[Any]) -> int:
    """How many come again."""
    them = list(numbers)
    return len(them) - len(set(them))


def by_key(effects: Iterable[Effect]) -> dict[tuple[str, str], list[int]]:
    """The numbers of each handler and key, in order."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for each in effects:
        found[each.handler, each.key].append(each.number)
    return found


def inversions(sequences: Iterable[Sequence[int]]) -> int:
    """How often a number comes after a higher one of its key, repetitions left out."""
    return sum(
        later < earlier
        for numbers in (list(dict.fromkeys(sequence)) for sequence in sequences)
        for earlier, later in itertools.pairwise(numbers)
    )


def longest_gap(times: Iterable[float]) -> float:
    """The longest time between two neighbours, in seconds."""
    ordered = sorted(times)
    return max((later - earlier for earlier, later in itertools.pairwise(ordered)), default=0.0)
