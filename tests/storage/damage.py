"""A file whose bits the disk has changed, or whose WAL it has cut: what the engine and `tidings doctor` make of it.

`python -m tests.storage.damage [--rounds N]` flips more bits of each page than the matrix does, and says as JSON what
became of each kind of page.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click

from tests.storage.journey import COUNTS, FILE, dump
from tests.storage.survey import folder_in_memory
from tidings.broker import Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.cli.checkup import examine
from tidings.clock import Clock
from tidings.embedded.checksum import altered
from tidings.embedded.database import Database
from tidings.errors import StorageError, StorageForeign, StorageTooNew
from tidings.stores.sqlite import SqliteStore

PAGE, FRAME, SECTOR = 4096, 4096 + 24, 512
TOPICS = {"often": 110, "rarely": 12}
COMMITS = 6
"""In the WAL that is cut."""


class Outcome(NamedTuple):
    """What became of a damaged file.

    `harmless`: every row is there as it was. `refused`: who opened or read it got a named error. `found`: `tidings
    doctor` calls it bad. `unnoticed`: neither; `where` are the tables that differ.
    """

    verdict: str
    where: tuple[str, ...] = ()


def opened(path: Path) -> SqliteBroker:
    """The real broker, which keeps everything."""
    return SqliteBroker(Database(path, durable=False), Clock(), keep=float("inf"))


def records(topic: str, count: int, *, first: int = 0) -> list[Record]:
    """Of all sizes: some need pages of their own."""
    chance = random.Random(topic)
    now = Clock().now()
    return [
        Record(topic, chance.randbytes(6000 if number % 40 == 7 else 200), f"k{number % 9}", "thing.told",
               f"{topic}-{number:04}", now, {"n": str(number)})
        for number in range(first, first + count)
    ]  # fmt: skip


async def made(path: Path) -> None:
    """A file with all that there may be: two topics, a group halfway, what is tried again, delayed, rows of state."""
    broker = opened(path)
    await broker.open()
    store = SqliteStore(broker.database, lambda: broker.writer)
    await store.open()
    member = await broker.subscribe(list(TOPICS), "g", Start.EARLIEST)
    for topic, count in TOPICS.items():
        await broker.publish(records(topic, count))
    lent = await member.fetch(60, 1.0)
    await member.ack([*lent[:40], *lent[50:]])
    await member.nack(lent[45:46])
    later = [Record("often", b"later", "k1", "thing.told", f"later{n}", 0.0, {}, Clock().now() + 1e6) for n in range(9)]
    await broker.publish(later)
    unit, tx = store.unit(), store.begin()
    for number in range(50):
        tx.put(COUNTS, f"row{number}", number)
    store.finish(tx)
    unit.join([tx])
    await unit.commit()
    await store.close()
    await broker.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def served(path: Path) -> list[Any]:
    """All that a member of the group is lent, settled as it comes. Raises the error that it meets."""
    broker = opened(path)
    await broker.open()
    try:
        seen: list[Any] = []
        member = await broker.subscribe(list(TOPICS), "g", Start.EARLIEST)
        while lent := await member.fetch(50, 0.0):
            seen += [each.record for each in lent]
            await member.ack(lent)
        return sorted(seen, key=lambda record: (record.topic, record.id))
    finally:
        await broker.close()


class Damaged:
    """Lays damaged copies of a file and says what becomes of them."""

    def __init__(self, folder: Path, whole: bytes) -> None:
        self.folder = folder / "damaged"
        self.whole = whole

    @classmethod
    async def of(cls, folder: Path) -> Damaged:
        """Of a file that is made for it."""
        (folder / "whole").mkdir()
        path = folder / "whole" / FILE
        await made(path)
        damaged = cls(folder, path.read_bytes())
        with damaged.laid(damaged.whole) as copy:
            damaged.rows = damaged.dumped(copy)
        with damaged.laid(damaged.whole) as copy:
            damaged.lent = await served(copy)
        return damaged

    @contextlib.contextmanager
    def laid(self, content: bytes, wal: bytes = b"") -> Iterator[Path]:
        """A folder with nothing but these files."""
        self.folder.mkdir()
        path = self.folder / FILE
        path.write_bytes(content)
        if wal:
            path.with_name(FILE + "-wal").write_bytes(wal)
        yield path
        shutil.rmtree(self.folder)

    @staticmethod
    def dumped(path: Path) -> dict[str, Any]:
        """All rows; what SQLite says where it cannot read them."""
        try:
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
                return dump(connection)
        except (sqlite3.Error, UnicodeError) as error:
            return {"sqlite": repr(error)}

    def flips(self, chance: random.Random) -> Iterator[tuple[int, bytes]]:
        """Each page with one bit of it flipped."""
        for start in range(0, len(self.whole), PAGE):
            bit = chance.randrange(PAGE * 8)
            content = bytearray(self.whole)
            content[start + bit // 8] ^= 1 << bit % 8
            yield start // PAGE + 1, bytes(content)

    async def judge(self, content: bytes) -> Outcome:
        """What becomes of it."""
        with self.laid(content) as path:
            rows = self.dumped(path)
        where = tuple(name for name in self.rows.keys() | rows.keys() if self.rows.get(name) != rows.get(name))
        with self.laid(content) as path:
            bad = [finding for finding in examine(path, full=True) if finding.state == "bad"]
        with self.laid(content) as path:
            try:
                lent = await served(path)
            except (StorageForeign, StorageTooNew):
                return Outcome("refused", where)
            except StorageError as error:
                return Outcome("refused" if "`tidings doctor " in str(error) else f"refused by {error!r}", where)
        if bad:
            return Outcome("found", where)
        return Outcome("unnoticed" if where or lent != self.lent else "harmless", where)


class Log:
    """A file with a WAL of `COMMITS` commits, one event each, and copies of it whose WAL is damaged."""

    def __init__(self, damaged: Damaged, wal: bytes) -> None:
        self._damaged = damaged
        self._wal = wal

    @classmethod
    async def of(cls, folder: Path) -> Log:
        """Of a file that is made for it, and copied while it is open."""
        path = folder / "log" / FILE
        path.parent.mkdir()
        broker = opened(path)
        await broker.open()
        await broker.declare("often", ["g"])
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for record in records("often", COMMITS):
            await broker.publish([record])
        log = cls(Damaged(folder, path.read_bytes()), path.with_name(FILE + "-wal").read_bytes())
        await broker.close()
        return log

    def damages(self) -> Iterator[tuple[str, bytes]]:
        """Cut at every sector; one bit flipped in the middle of every frame."""
        for end in range(SECTOR, len(self._wal), SECTOR):
            yield "cut", self._wal[:end]
        for middle in range(FRAME // 2, len(self._wal), FRAME):
            yield "flipped", self._wal[:middle] + bytes([self._wal[middle] ^ 1]) + self._wal[middle + 1 :]

    def left(self, wal: bytes) -> int:
        """How many events are there, which have to be the first ones, in a file that is whole."""
        with self._damaged.laid(self._damaged.whole, wal) as path:
            database = Database(path, durable=False)
            database.open()
            with contextlib.closing(database.connect()) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert list(altered(connection)) == []
                ids = [id for (id,) in connection.execute("SELECT id FROM tidings_log ORDER BY pos")]
            database.close()
        assert ids == [f"often-{number:04}" for number in range(len(ids))], "an event in the middle is missing"
        return len(ids)


async def survey(folder: Path, rounds: int) -> AsyncIterator[tuple[int, Outcome]]:
    """What becomes of so many bits of each page, with the number of the page."""
    damaged = await Damaged.of(folder)
    for seed in range(rounds):
        for page, content in damaged.flips(random.Random(seed)):
            yield page, await damaged.judge(content)


async def counted(folder: Path, rounds: int) -> Counter[str]:
    """How many had which outcome; of what went unnoticed, the tables too."""
    return Counter([" ".join((verdict, *sorted(where if verdict == "unnoticed" else ())))
                    async for _, (verdict, where) in survey(folder, rounds)])  # fmt: skip


@click.command()
@click.option("--rounds", default=8, help="Bits of each page.")
def main(rounds: int) -> None:
    """Flip bits, say what became of them."""
    with folder_in_memory() as folder:
        click.echo(json.dumps(asyncio.run(counted(Path(folder), rounds))))


if __name__ == "__main__":
    main()
