"""Each record carries a checksum of what was published; files of earlier versions get the column, and have none."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from tidings.broker import Record, Start
from tidings.brokers.sqlite import SCHEMA, SqliteBroker
from tidings.clock import Clock
from tidings.embedded.checksum import Altered, adapt, altered
from tidings.embedded.database import Database
from tidings.errors import StorageBroken


class Name(str):
    """A text of a kind of its own."""


RECORD = Record("t", b"body", "key", "type", "id", 5.0, {"a": "b"})
RECORDS = [
    RECORD,
    replace(RECORD, id="whole", time=5),
    replace(RECORD, id=Name("own"), key=Name("own"), value=bytearray(b"x")),
    replace(RECORD, id="odd", key=None, value=b"", type="\0\U0001f600", headers={}, time=-0.0),
    replace(RECORD, id="later", due=4e9),
]
EARLIER = SCHEMA.replace(", crc INTEGER", "")


BY_EARLIER = """INSERT INTO tidings_log (topic, part, id, type, key, time, headers, body)
    VALUES (1, 0, 'e', 't', NULL, 1.0, '{}', x'')"""


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    async for broker in opened(tmp_path / "tidings.db"):
        await broker.publish(RECORDS)
    return tmp_path / "tidings.db"


async def opened(path: Path) -> AsyncIterator[SqliteBroker]:
    broker = SqliteBroker(Database(path, durable=False), Clock(), keep=float("inf"))
    await broker.open()
    yield broker
    await broker.close()


def found(path: Path) -> list[Altered]:
    with closing(sqlite3.connect(path)) as connection:
        return list(altered(connection))


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql)


async def test_what_was_published_is_found_to_be_that(path: Path) -> None:
    assert found(path) == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(crc) FROM tidings_log").fetchone() == (4,)
        assert connection.execute("SELECT count(crc) FROM tidings_delay").fetchone() == (1,)


@pytest.mark.parametrize(
    "changed",
    ["topic = topic + 1", "part = part + 1", "id = 'ie'", "type = 'u'", "key = NULL", "time = time + 0.001",
     "headers = '{}'", "body = x'00'", "crc = crc + 1"],
)  # fmt: skip
async def test_every_value_counts(path: Path, changed: str) -> None:
    change(path, f"UPDATE tidings_log SET {changed} WHERE pos = 1")
    change(path, f"UPDATE tidings_delay SET {changed}")
    assert found(path) == [("tidings_log", 1), ("tidings_delay", 1)]


async def test_what_falls_due_takes_its_checksum_along(path: Path) -> None:
    change(path, "UPDATE tidings_delay SET due = 1.0")
    async for broker in opened(path):
        view = await broker.subscribe(["t"], None, Start.EARLIEST)
        seen: list[str] = []
        while "later" not in seen:
            seen += [delivery.record.id for delivery in await view.fetch(10, 1.0)]
        assert broker.read("SELECT count(crc) FROM tidings_log") == [(5,)]
    assert found(path) == []


async def test_a_file_of_an_earlier_version_is_used_on_by_both(tmp_path: Path) -> None:
    path = tmp_path / "tidings.db"
    Database(path).open()
    with closing(sqlite3.connect(path)) as earlier:
        earlier.executescript(EARLIER)
        assert list(altered(earlier)) == []
        async for broker in opened(path):
            await broker.publish([RECORD])
            earlier.execute(BY_EARLIER)
            earlier.commit()
            earlier.execute("DELETE FROM tidings_log WHERE id = 'e'")
            earlier.rollback()
            assert broker.read("SELECT id, crc IS NULL FROM tidings_log") == [("id", 0), ("e", 1)]
        assert list(altered(earlier)) == []


async def test_only_one_of_two_that_open_an_earlier_file_at_once_changes_it(tmp_path: Path) -> None:
    Database(tmp_path / "tidings.db").open()
    with closing(sqlite3.connect(tmp_path / "tidings.db", isolation_level=None)) as earlier:
        earlier.executescript(EARLIER)
        earlier.execute("BEGIN IMMEDIATE")
        other = asyncio.create_task(asyncio.to_thread(adapt_another, tmp_path / "tidings.db"))
        await asyncio.sleep(0.05)  # by now it waits, having seen that the column is lacking
        earlier.execute("ALTER TABLE tidings_log ADD COLUMN crc INTEGER")
        earlier.execute("COMMIT")
        await other
        assert earlier.execute("SELECT count(crc) FROM tidings_delay").fetchone() == (0,)


def adapt_another(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        adapt(connection)


@pytest.mark.parametrize(
    "changed", ["headers = '{\"a\":'", "headers = x'ff'", "type = CAST(x'41ff42' AS TEXT)", "body = 7"]
)
async def test_what_cannot_be_read_is_named_and_not_shown(path: Path, changed: str) -> None:
    change(path, f"UPDATE tidings_log SET {changed}")
    async for broker in opened(path):
        view = await broker.subscribe(["t"], None, Start.EARLIEST)
        with pytest.raises(StorageBroken, match="tidings doctor") as refused:
            await view.fetch(10, 0.0)
        assert "A\\" not in str(refused.value)
