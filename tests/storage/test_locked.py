"""Another process holds the file for long: who waits is told, and who was silent only because of it is not dead."""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidings import PublishFailed
from tidings.broker import Record
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded import writer
from tidings.embedded.database import Database, create
from tidings.embedded.membership import MEMBERS, bury_silent


async def test_a_member_that_has_renewed_its_lease_meanwhile_is_not_buried(broker: SqliteBroker) -> None:
    await broker.subscribe(["t"], "g")
    (id, _, _, lease) = broker.read(MEMBERS)[0]
    await broker.run(lambda connection: bury_silent(connection, {id: lease - 1.0}, broker.lent))
    assert [row[0] for row in broker.read(MEMBERS)] == [id]
    await broker.run(lambda connection: bury_silent(connection, {id: lease}, broker.lent))
    assert broker.read(MEMBERS) == []


async def test_publishers_are_told_though_the_housekeeping_waits_too(
    broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BUSY_WAIT", 0.2)
    monkeypatch.setattr(writer, "LOOK", 0.05)
    broker.lease = 0.3
    await broker.subscribe(["t"], "g")
    await asyncio.sleep(0.5)  # a heartbeat is due at once from here on
    lock = os.open(broker.database.side(".lock"), os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await asyncio.sleep(1.0)  # the housekeeping waits for its heartbeat
        async with asyncio.timeout(60):
            with pytest.raises(PublishFailed, match="locked by another process"):
                await broker.publish([Record("t", b"", None, "t", "r1")])
    finally:
        os.close(lock)
    await broker.publish([Record("t", b"", None, "t", "r1")])
    assert broker.read("SELECT id FROM tidings_log") == [("r1",)]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def opened(path: Path, schema: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        create(connection, schema)


async def test_a_schema_that_is_there_is_found_without_the_lock_and_one_that_is_not_waits_for_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tidings.db"
    Database(path).open()
    opened(path, "CREATE TABLE IF NOT EXISTS one (a);")
    with locked(path) as other:
        opened(path, "CREATE TABLE IF NOT EXISTS one (a);")
        lacking = "CREATE TABLE IF NOT EXISTS one (a); CREATE TABLE IF NOT EXISTS two (a);"
        waiting = asyncio.create_task(asyncio.to_thread(opened, path, lacking))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        other.execute("CREATE TABLE two (a)")
        other.execute("COMMIT")
        await waiting


def test_a_schema_that_is_wrong_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax"):
        opened(tmp_path / "f", "CREATE TABLE one (a); CREATE NONSENSE;")
    opened(tmp_path / "f", "CREATE TABLE one (a);")
