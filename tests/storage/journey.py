"""The real broker and store do all that they do with their file, on a disk that remembers it.

Run in a process of its own, it leaves a tape: `python -m tests.storage.journey FOLDER TAPE [--sync NORMAL] [--deaf]`.
At each commit of the writer the tape gets a dump of all rows, so that what a crash leaves can be compared with what
was there after that commit, row by row; and it is told when `publish` and `ack` have returned.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.storage.tape import Tape
from tests.storage.vfs import between
from tidings import failpoint
from tidings.broker import Delivery, Record, Start
from tidings.brokers.sqlite import KEEP, SqliteBroker
from tidings.clock import Clock
from tidings.embedded import writer
from tidings.embedded.database import Connection, Database
from tidings.embedded.group import Group
from tidings.store import Table
from tidings.stores.sqlite import SqliteStore

FILE = "tidings.db"
COUNTS = Table("counts", int)
EFFECT = "INSERT INTO effects (id) VALUES (?)"
NEVER = "never"
"""What ids begin with that were rolled back or refused."""

Dump = dict[str, list[tuple[Any, ...]]]


def dump(connection: sqlite3.Connection) -> Dump:
    """All rows of all tables."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for (name,) in tables}


class Synced(Database):
    """A file with another `synchronous`: the planted fault."""

    def __init__(self, path: Path, synchronous: str) -> None:
        super().__init__(path)
        self.synchronous = synchronous

    def connect(self, *, durable: bool | None = None) -> Connection:
        """See Database.connect."""
        connection = super().connect(durable=durable)
        connection.execute(f"PRAGMA synchronous={self.synchronous}")
        return connection


class Journey:
    """One program with a broker, a store and what it was promised."""

    def __init__(self, folder: Path, tape: Tape, synchronous: str = "FULL") -> None:
        self.tape = tape
        self.database = Synced(folder / FILE, synchronous)
        self.clock = Clock()
        self.made = 0

    async def run(self) -> None:
        """Everything, one after another."""
        await self.short()
        await self.delays()
        await self.members()
        await self.retention()
        await self.checkpoints()
        await self.again()

    async def short(self) -> None:
        """To publish, to settle, and both in one transaction with state."""
        await self.opened()
        await self.publishing()
        await self.settling()
        await self.effects()

    async def opened(self) -> None:
        """Make the file, a topic, a group and a member."""
        self.broker = SqliteBroker(self.database, self.clock)
        await self.broker.open()
        self.store = SqliteStore(self.database, lambda: self.broker.writer)
        await self.store.open()
        self.tape.mark("opened")
        await self.execute("CREATE TABLE effects (id TEXT)")
        self.group = await self.join(self.broker)

    async def execute(self, sql: str, *values: object) -> None:
        """One statement in the writer's next transaction."""

        def step(connection: Connection) -> None:
            connection.execute(sql, values)

        await self.broker.run(step)

    async def join(self, broker: SqliteBroker) -> Group:
        """A member of the group on topic t."""
        member = await broker.subscribe(["t"], "g", Start.EARLIEST)
        assert isinstance(member, Group)
        return member

    # -- what it is promised

    def records(self, count: int, size: int = 100, *, prefix: str = "r", due: float | None = None) -> list[Record]:
        """New ones. Their bodies are without a pattern, to which the checksum of SQLite's WAL is blind (see row 11)."""
        first, self.made = self.made, self.made + count
        return [Record("t", random.Random(number).randbytes(size), f"k{number % 5}", "t", f"{prefix}{number:04}",
                       self.clock.now(), {"n": str(number)}, due) for number in range(first, self.made)]  # fmt: skip

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish, and say when that is promised."""
        await self.broker.publish(records)
        self.tape.mark("published", [record.id for record in records])

    async def ack(self, lent: Sequence[Delivery]) -> None:
        """Settle, and say when that is promised."""
        self.tape.mark("settling", [delivery.record.id for delivery in lent])
        await self.group.ack(lent)
        self.tape.mark("settled", [delivery.record.id for delivery in lent])

    # -- the way

    async def publishing(self) -> None:
        """One, together, many, large; and such as fail, alone and beside others."""
        for size in (40, 400):
            await self.publish(self.records(1, size))
        await asyncio.gather(*(self.publish(self.records(1)) for _ in range(5)))
        await self.publish(self.records(60))
        await self.publish(self.records(1, 20_000))
        bad = Record("t", "no bytes but an object", None, "t", object())  # type: ignore[arg-type]
        await asyncio.gather(
            self.publish(self.records(2)), self.broker.publish([bad]), self.fail(), return_exceptions=True
        )

    async def fail(self) -> None:
        """A step that writes and then fails: nothing of it may ever be seen."""

        def step(connection: Connection) -> None:
            self.broker._publish_in(connection, self.records(3, prefix=NEVER), {})
            raise KeyError("mine")

        await self.broker.run(step)

    async def settling(self) -> None:
        """In order, out of order, and not now."""
        lent = await self.group.fetch(20, 1.0)
        await self.ack(lent[:5])
        await self.ack(lent[15:])
        await self.group.nack(lent[7:8])
        await self.ack(lent[5:6])
        await self.group.nack(lent[9:10], 3600.0)
        await self.ack(await self.group.fetch(1, 1.0))
        await self.publish(self.records(5))  # one of them waits behind the one that is held back
        await self.ack(await self.group.fetch(40, 1.0))

    async def effects(self) -> None:
        """State, the user's own row, what is published and the acknowledgement in one commit; and one that fails."""
        for number in range(4):
            lent = list(await self.group.fetch(3, 1.0))
            unit, tx = self.store.unit(), self.store.begin()
            ids = [delivery.record.id for delivery in lent]
            failing = number == 2
            out = self.records(2, prefix=NEVER if failing else "out")
            tx.put(COUNTS, "all", self.made)
            self.store.finish(tx)
            unit.join([tx])
            unit.add(partial(self.write_effects, ids=[NEVER] if failing else ids, fail=failing))
            await self.broker.publish(out, tx=unit)
            await self.group.ack(lent, tx=unit)
            if failing:
                await asyncio.gather(unit.commit(), return_exceptions=True)
                self.store.discard(tx)
                await self.group.nack(lent)
                continue
            self.tape.mark("settling", ids)
            await unit.commit()
            self.tape.mark("settled", ids)
            self.tape.mark("effects", ids)
            self.tape.mark("published", [record.id for record in out])

    def write_effects(self, connection: Connection, *, ids: Sequence[str], fail: bool) -> None:
        """What the user's handler writes."""
        connection.executemany(EFFECT, [(id,) for id in ids])
        if fail:
            raise KeyError("the handler")

    async def delays(self) -> None:
        """One that falls due, one that does not."""
        soon, late = self.records(1, due=self.clock.now() + 0.05), self.records(1, due=self.clock.now() + 3600.0)
        await self.publish([*soon, *late])
        async with asyncio.timeout(60):
            while not self.broker.read("SELECT 1 FROM tidings_log WHERE id = ?", (soon[0].id,)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def members(self) -> None:
        """Another process joins, is given parts, is lent something, and leaves."""
        other = SqliteBroker(self.database, self.clock)
        await other.open()
        member = await self.join(other)
        await self.group.nack(await self.group.fetch(0, 0.0))
        await self.ack([*self.group.feeds[self.broker.topics["t"]].lent.values()])
        self.group.stale = True
        await self.group.rebalance()
        member.stale = True
        await member.fetch(10, 0.2)
        await self.publish(self.records(3))
        await other.close()

    async def retention(self) -> None:
        """What is settled and past its count goes."""
        await self.execute(KEEP, None, 40, "t")
        await self.broker._retain()

    async def checkpoints(self) -> None:
        """Enough for the WAL to be moved, to begin anew, and to be cut."""
        usual = writer.CHECKPOINT_BYTES, writer.RESTART_FRAMES
        writer.CHECKPOINT_BYTES, writer.RESTART_FRAMES = 60 << 10, 10
        for _ in range(6):
            await self.publish(self.records(4, 12_000))
        holding = self.database.connect()
        holding.execute("BEGIN")
        holding.execute("SELECT count(*) FROM tidings_log").fetchone()
        for _ in range(3):
            await self.publish(self.records(4, 12_000))
        holding.execute("COMMIT")
        holding.close()
        for _ in range(4):
            await self.publish(self.records(4, 12_000))
        writer.CHECKPOINT_BYTES, writer.RESTART_FRAMES = usual

    async def again(self) -> None:
        """Close in order, open again, go on; then the power fails."""
        await self.broker.close()
        await self.store.close()
        await self.opened_again()
        await self.publish(self.records(2))
        self.group = await self.join(self.broker)
        await self.ack(await self.group.fetch(10, 1.0))

    async def opened_again(self) -> None:
        """As a process does that is started again."""
        self.broker = SqliteBroker(self.database, self.clock)
        await self.broker.open()


def listen(tape: Tape, path: Path) -> None:
    """Put the engine's named places on the tape, and at each commit all that is committed."""

    def hit(place: str) -> None:
        if place == "committing":
            tape.mark(place)
        elif place == "committed":
            connection = sqlite3.connect(path)
            tape.mark(place, dump(connection))
            connection.close()

    failpoint.hit = hit


def main() -> None:
    """Go, keep the tape, and be gone as a machine is that loses power."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("tape", type=Path)
    parser.add_argument("--sync", default="FULL")
    parser.add_argument("--deaf", action="store_true")
    arguments = parser.parse_args()
    tape = Tape(deaf=arguments.deaf)
    listen(tape, arguments.folder / FILE)
    journey = Journey(arguments.folder, tape, arguments.sync)
    with between(tape):
        with asyncio.Runner() as runner:
            runner.run(journey.run())
        tape.keep(arguments.tape)
        os._exit(0)


if __name__ == "__main__":
    main()
