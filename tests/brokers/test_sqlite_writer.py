"""One writer a process: what it commits together, how processes take turns, how large the WAL becomes."""

import asyncio
import contextlib
import fcntl
import gc
import os
import weakref
from pathlib import Path
from typing import Any

import pytest

from tidings import PublishFailed
from tidings.broker import Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded import writer
from tidings.embedded.database import Connection, Database
from tidings.embedded.writer import Writer
from tidings.stores.sqlite import SqliteStore

MEGABYTE = 1 << 20


def record(id: str, size: int = 0) -> Record:
    return Record("t", bytes(size), None, "t", id, Clock().now())


async def ids(broker: SqliteBroker) -> list[str]:
    view = await broker.subscribe(["t"], None, Start.EARLIEST)
    found: list[str] = []
    while lent := await view.fetch(1000, 0.0):
        found += [delivery.record.id for delivery in lent]
    return found


async def test_what_is_published_at_once_is_committed_at_once(broker: SqliteBroker) -> None:
    await broker.declare("t", [])
    before = broker.read("PRAGMA data_version")[0][0]
    await asyncio.gather(*(broker.publish([record(f"r{number}")]) for number in range(100)))
    commits = broker.read("PRAGMA data_version")[0][0] - before
    assert len(await ids(broker)) == 100
    assert commits <= 2


async def test_a_step_that_fails_does_not_fail_its_neighbours(broker: SqliteBroker) -> None:
    def fail(connection: Connection) -> None:
        connection.execute("INSERT INTO tidings_group (name) VALUES ('undone')")
        raise KeyError("mine")

    def fail_in_sql(connection: Connection) -> None:
        connection.execute("INSERT INTO nowhere VALUES (1)")

    await broker.declare("t", [])
    results = await asyncio.gather(
        broker.publish([record("r1")]), broker.run(fail), broker.run(fail_in_sql), broker.publish([record("r2")]),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(result).__name__ for result in results] == ["NoneType", "KeyError", "StorageError", "NoneType"]
    assert await ids(broker) == ["r1", "r2"]
    assert broker.read("SELECT * FROM tidings_group") == []


async def test_a_row_that_fails_does_not_fail_its_neighbours(broker: SqliteBroker) -> None:
    await broker.declare("t", [])
    bad = Record("t", "no bytes but an object", None, "t", object())  # type: ignore[arg-type]
    results = await asyncio.gather(
        *(broker.publish([each]) for each in (record("r1"), bad, record("r2"))), return_exceptions=True
    )
    assert [isinstance(result, BaseException) for result in results] == [False, True, False]
    assert await ids(broker) == ["r1", "r2"]


async def test_what_happens_after_a_commit_does_not_undo_it(tmp_path: Path) -> None:
    def insert(connection: Connection, rows: Any) -> int:
        connection.executemany("INSERT INTO rows VALUES (?)", rows)
        return len(rows)

    def fail() -> None:
        raise OSError("no space left for the byte that wakes readers")

    database = Database(tmp_path / "tidings.db", durable=False)
    database.open()
    writer = Writer(database, insert, fail)
    try:
        await writer.run(lambda connection: connection.execute("CREATE TABLE rows (id INTEGER)") and None)
        await writer.append([(1,)])
        assert await writer.run(lambda connection: connection.execute("SELECT * FROM rows").fetchall()) == [(1,)]
    finally:
        await writer.close()


async def test_two_connections_of_a_process_take_turns(tmp_path: Path) -> None:
    database = Database(tmp_path / "tidings.db", durable=False)
    async with contextlib.AsyncExitStack() as stack:
        brokers = [SqliteBroker(database, Clock()) for _ in range(2)]
        for broker in brokers:
            await broker.open()
            stack.push_async_callback(broker.close)
            await broker.declare("t", [])
        done = [0, 0]

        async def publish(which: int, publisher: int) -> None:
            while max(done) < 1000:
                await brokers[which].publish([record(f"{which}-{publisher}-{done[which]}")])
                done[which] += 1

        async with asyncio.TaskGroup() as group:
            for which in (0, 1):
                for publisher in range(5):
                    group.create_task(publish(which, publisher))
        assert min(done) > 300, f"one of them starved: {done}"
        assert len(await ids(brokers[0])) == sum(done)


@pytest.mark.parametrize(("count", "size"), [(40_000, 500), (60, MEGABYTE)])
async def test_the_wal_stays_small(tmp_path: Path, count: int, size: int) -> None:
    """Forty megabytes of small records, or sixty of large ones: checkpoints keep up with both."""
    database = Database(":memory:")
    broker = SqliteBroker(database, Clock())
    await broker.open()
    largest = 0
    wal = database.side("-wal")
    for first in range(0, count, 1000):
        each = range(first, min(first + 1000, count))
        for number in each if size == MEGABYTE else [first]:
            batch = [record(f"r{number}", size)] if size == MEGABYTE else [record(f"r{n}", size) for n in each]
            await broker.publish(batch)
            largest = max(largest, wal.stat().st_size)
    await broker.close()
    assert largest < 24 * MEGABYTE


async def test_the_wal_of_what_handlers_write_stays_small(broker: SqliteBroker) -> None:
    await broker.run(lambda connection: connection.execute("CREATE TABLE mine (body BLOB)") and None)
    for _ in range(60):
        await broker.run(lambda c: c.execute("INSERT INTO mine VALUES (zeroblob(?))", (MEGABYTE,)) and None)
    assert broker.database.side("-wal").stat().st_size < 24 * MEGABYTE


async def test_who_waits_too_long_for_another_process_is_told(
    broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was told may not be kept is safe to publish again: it is there once."""
    monkeypatch.setattr(writer, "BUSY_WAIT", 0.2)
    await broker.publish([record("r1")])
    lock = os.open(broker.database.side(".lock"), os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PublishFailed, match=r"locked by another process for 0\.2 s") as failed:
            await broker.publish([record("r2")])
        assert failed.value.unsent == ("r2",)
    finally:
        os.close(lock)
    await broker.publish([record("r2"), record("r3")])
    assert await ids(broker) == ["r1", "r2", "r3"]


async def test_closing_waits_for_what_is_being_published(tmp_path: Path) -> None:
    database = Database(tmp_path / "tidings.db", durable=False)
    broker = SqliteBroker(database, Clock())
    await broker.open()
    await broker.declare("t", [])
    publishing = [asyncio.create_task(broker.publish([record(f"r{number}")])) for number in range(50)]
    await asyncio.sleep(0)
    await broker.close()
    await asyncio.gather(*publishing)
    again = SqliteBroker(database, Clock())
    await again.open()
    assert len(await ids(again)) == 50
    await again.close()


async def test_what_was_committed_is_freed_without_the_garbage_collector(broker: SqliteBroker) -> None:
    store = SqliteStore(broker.database, lambda: broker.writer)
    await store.open()
    member = await broker.subscribe(["t"], "g")
    await broker.publish([record("r1")])
    lent = await member.fetch(1, 5.0)
    gc.disable()
    try:
        unit = store.unit()
        await member.ack(lent, tx=unit)
        await unit.commit()
        freed = weakref.ref(unit)
        del unit
        await broker.publish([record("r2")])  # the writer's thread keeps its last work until there is more
        assert freed() is None
    finally:
        gc.enable()
        await store.close()
