"""What a crash left is opened with the real code, and compared with what was promised before.

Cheap and for every state: it opens, is whole, and holds exactly the rows of one commit, which is not older than the
last whose COMMIT had returned and not newer than the last that had begun. That alone says that no acknowledged row is
missing, none that was rolled back is there, no transaction is there in part, and no position is where it never was.
`live` then lets a broker and a member go on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

from tests.storage.disk import State
from tests.storage.journey import FILE, NEVER, Dump, dump
from tests.storage.tape import Entry, Mark
from tidings.broker import Record, Start, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database
from tidings.errors import StorageError

SIDE = ("-journal", "-wal", "-shm", ".lent", ".lock", ".notify")
TABLES = ("tidings_log", "tidings_delay", "tidings_topic", "tidings_feed", "tidings_member", "tidings_row", "effects")
"""Those that hold nothing before the writer's first commit."""
PATIENCE = 60.0
FOLLOWING = Record("t", b"after the crash", "k0", "t", "after")


class Promise(NamedTuple):
    """What held for the program at a moment.

    `dumps` are what a crash may leave: what is committed, or is being committed.
    """

    dumps: Sequence[Dump]
    committed: AbstractSet[str]
    published: frozenset[str]
    settling: frozenset[str]
    settled: frozenset[str]

    @property
    def kept(self) -> set[str]:
        """Acknowledged ids that have to be there: retention has not removed them."""
        return set(self.published.intersection(*map(ids, self.dumps)))


class Verdict(NamedTuple):
    """`wrong` is empty where all is well; `missing` counts acknowledged ids that are nowhere."""

    wrong: str = ""
    missing: int = 0
    corrupt: bool = False


def promises(tape: Sequence[Entry]) -> Iterator[Promise]:
    """What is promised at each entry of the tape; and at its end."""
    commits: list[Dump] = [entry.value for entry in tape if isinstance(entry, Mark) and entry.name == "committed"]
    begun = done = 0
    committed: set[str] = set()
    told: dict[str, set[str]] = {"published": set(), "settling": set(), "settled": set()}
    for entry in [*tape, None]:
        dumps = commits[done - 1 : begun] if done else [{}, *commits[:begun]]
        yield Promise(dumps, frozenset(committed), *(frozenset(each) for each in told.values()))
        if isinstance(entry, Mark):
            begun += entry.name == "committing"
            done += entry.name == "committed"
            committed |= ids(entry.value) if entry.name == "committed" else set()
            if entry.name in told:
                told[entry.name].update(entry.value)


class LaterClock(Clock):
    """A day later, when all that was delayed or held back is due."""

    def __init__(self) -> None:
        super().__init__()
        now, monotonic = self.now, self.monotonic
        self.now = lambda: now() + 86_400.0
        self.monotonic = lambda: monotonic() + 86_400.0


class Judge:
    """Opens states in a folder."""

    def __init__(self, folder: Path, tape: Sequence[Entry]) -> None:
        self.path = folder / FILE
        self._promises = list(promises(tape))
        self._commits = [entry.value for entry in tape if isinstance(entry, Mark) and entry.name == "committed"]

    def lay(self, state: State) -> None:
        """Make the folder what the crash has left."""
        for suffix in ("", *SIDE):
            self.path.with_name(FILE + suffix).unlink(missing_ok=True)
        for name, content in state.files.items():
            self.path.with_name(name).write_bytes(content)

    def look(self, state: State) -> Verdict:
        """Is it whole, and is it what was promised?"""
        promise = self._promises[state.moment.entry]
        self.lay(state)
        database = Database(self.path)
        try:
            database.open()
            with contextlib.closing(database.connect()) as connection:
                integrity = connection.execute("PRAGMA integrity_check").fetchall()
                found = dump(connection)
            database.close()
        except (StorageError, sqlite3.Error) as error:
            return Verdict(f"it does not open: {error!r}", len(promise.kept), corrupt=True)
        missing = len(promise.kept - ids(found))
        if integrity != [("ok",)]:
            return Verdict(f"integrity: {integrity[:2]}", missing, corrupt=True)
        if any(id.startswith(NEVER) for id in ids(found)):
            return Verdict("what was rolled back is there", missing)
        return Verdict(self._other(found, promise.dumps), missing)

    def _other(self, found: Dump, allowed: Sequence[Dump]) -> str:
        if found in allowed or ({} in allowed and not any(found.get(name) for name in TABLES)):
            return ""
        for place, commit in enumerate(self._commits):
            if found == commit:
                return f"it is as after commit {place}, which is not one of the {len(allowed)} that it may be"
        return "it is as after no commit"

    async def live(self, state: State, lent: bytes) -> str:
        """What goes wrong when work goes on, `lent` being what is found beside the file."""
        promise = self._promises[state.moment.entry]
        self.lay(state)
        self.path.with_name(FILE + ".lent").write_bytes(lent)
        broker = SqliteBroker(Database(self.path), LaterClock())
        await broker.open()
        try:
            return await self._work(broker, promise)
        finally:
            await broker.close()

    async def _work(self, broker: SqliteBroker, promise: Promise) -> str:
        kept = {id for (id,) in broker.read("SELECT id FROM tidings_log UNION SELECT id FROM tidings_delay")}
        member = await broker.subscribe(["t"], "g", Start.EARLIEST)
        seen = await self._until(member, (promise.published & kept) - promise.settling)
        await broker.publish([FOLLOWING])  # by now the dead are buried
        seen += await self._until(member, {FOLLOWING.id})
        seen += [delivery.record.id for delivery in await member.fetch(1000, 0.0)]
        if lost := ((promise.published & kept) - promise.settling | {FOLLOWING.id}).difference(seen):
            return f"never delivered: {sorted(lost)[:5]}"
        if again := promise.settled.intersection(seen):
            return f"delivered again though settled: {sorted(again)[:5]}"
        return "delivered twice" if len(set(seen)) < len(seen) else ""

    @staticmethod
    async def _until(member: Subscription, expected: AbstractSet[str]) -> list[str]:
        """What is delivered until all that is expected is, or nothing comes for too long."""
        seen: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not expected <= set(seen):
                    lent = await member.fetch(1000, 0.5)
                    seen += [delivery.record.id for delivery in lent]
                    await member.ack(lent)
        return seen


def ids(found: Mapping[str, Any]) -> set[str]:
    """The ids of events that are there, in the log or waiting for their time."""
    return {row[3] for row in found.get("tidings_log", ())} | {row[4] for row in found.get("tidings_delay", ())}
