"""What the embedded broker does by itself: retention, and saying so when it cannot go on."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidings.broker import Record, Start
from tidings.brokers.sqlite import RETENTION_EVERY, SqliteBroker, append
from tidings.clock import Clock
from tidings.embedded.database import Connection, Database
from tidings.errors import StorageBroken
from tidings.testing import TestClock

DAY = 86400.0


class Site:
    """A broker whose clock the test moves."""

    def __init__(self, path: Path) -> None:
        self.clock = TestClock()
        self.database = Database(path, durable=False)

    async def open(self, *, keep: float | None = None, keep_count: int | None = None) -> None:
        self.broker = SqliteBroker(self.database, self.clock, keep=keep, keep_count=keep_count)
        await self.broker.open()

    async def publish(self, count: int, topic: str = "t") -> None:
        first = self.count(topic)
        records = [
            Record(topic, b"", "k", "t", f"{self.clock.now()}-{number}", self.clock.now())
            for number in range(first, first + count)
        ]
        await self.broker.publish(records)

    async def settle(self, group: str, count: int, topic: str = "t") -> None:
        """A member of the group handles so many and leaves."""
        member = await self.broker.subscribe([topic], group, Start.EARLIEST)
        await member.ack(await member.fetch(count, 0.0))
        await member.close()

    def count(self, topic: str = "t") -> int:
        sql = "SELECT count(*) FROM tidings_log l JOIN tidings_topic t ON t.id = l.topic WHERE t.name = ?"
        return int(self.broker.read(sql, (topic,))[0][0])

    async def left(self, topic: str = "t") -> int:
        """How many are in the log when retention has had its turn."""
        self.clock.move(self.clock.now() + RETENTION_EVERY + 1.0)
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while self.clock.due is None or self.clock.due <= self.clock.now():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
        return self.count(topic)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "tidings.db")
    yield site
    await site.broker.close()


async def test_what_is_too_old_goes(site: Site) -> None:
    await site.open(keep=DAY)
    await site.publish(2500)
    site.clock.move(site.clock.now() + 0.9 * DAY)
    await site.publish(10)
    assert await site.left() == 2510
    site.clock.move(site.clock.now() + 0.2 * DAY)
    assert await site.left() == 10


async def test_what_is_too_much_goes(site: Site) -> None:
    await site.open(keep=float("inf"), keep_count=100)
    await site.publish(80)
    assert await site.left() == 80
    await site.publish(2500)
    await site.publish(30, "other")
    assert await site.left() == 100
    assert site.count("other") == 30


async def test_what_a_group_has_not_settled_stays(site: Site) -> None:
    await site.open(keep=DAY)
    await site.broker.declare("t", ["fast", "slow"], Start.EARLIEST)
    await site.publish(100)
    await site.settle("fast", 100)
    await site.settle("slow", 30)
    site.clock.move(site.clock.now() + 2 * DAY)
    assert await site.left() == 70
    await site.settle("slow", 70)
    assert await site.left() == 0


async def test_what_is_to_be_tried_again_stays(site: Site) -> None:
    await site.open(keep=DAY)
    member = await site.broker.subscribe(["t"], "g")
    await site.publish(10)
    lent = await member.fetch(10, 0.0)
    await member.nack(lent[4:5], 10 * DAY)
    await member.ack(lent)
    await site.publish(10)
    rest = await member.fetch(10, 0.0)
    await member.ack(rest)
    await member.close()
    site.clock.move(site.clock.now() + 2 * DAY)
    assert await site.left() >= 1
    site.clock.move(site.clock.now() + 9 * DAY)
    member = await site.broker.subscribe(["t"], "g")
    again = list(await member.fetch(100, 0.0))
    assert again[0].record.id == lent[4].record.id
    while again:
        await member.ack(again)
        again = list(await member.fetch(100, 0.0))
    await member.close()
    assert await site.left() == 0


async def test_a_week_is_kept_where_nothing_is_said(site: Site) -> None:
    await site.open()
    await site.publish(10)
    site.clock.move(site.clock.now() + 6 * DAY)
    assert await site.left() == 10
    site.clock.move(site.clock.now() + 2 * DAY)
    assert await site.left() == 0


async def test_what_comes_while_retention_looks_stays(site: Site) -> None:
    await site.open(keep=DAY)
    await site.broker.declare("t", [])
    other = sqlite3.connect(site.database.path, isolation_level=None, factory=Connection)

    def interfere(statement: str) -> None:
        """Another process publishes between what retention reads and what it reads next."""
        if "sqlite_sequence" in statement and not other.execute("SELECT count(*) FROM tidings_log").fetchone()[0]:
            append(other, [(1, 0, "new", "t", None, site.clock.now(), "{}", b"", None)])

    site.broker._reader.set_trace_callback(interfere)
    assert await site.left() == 1
    assert await site.left() == 1
    other.close()


async def test_positions_are_not_used_again_after_retention(site: Site) -> None:
    await site.open(keep=DAY)
    await site.publish(10)
    await site.settle("g", 10)
    site.clock.move(site.clock.now() + 2 * DAY)
    assert await site.left() == 0
    await site.broker.close()
    await site.open(keep=DAY)
    await site.publish(3)
    member = await site.broker.subscribe(["t"], "g")
    assert len(await member.fetch(10, 0.0)) == 3


async def test_a_broker_whose_housekeeping_died_says_so_and_can_be_closed(tmp_path: Path) -> None:
    class Stopped(Clock):
        async def wait(self, event: asyncio.Event, seconds: float) -> bool:
            raise RuntimeError("the clock has stopped")

    database = Database(":memory:")
    broker = SqliteBroker(database, Stopped())
    await broker.open()
    await asyncio.sleep(0.1)
    with pytest.raises(StorageBroken, match="start again") as broken:
        await broker.publish([Record("t", b"")])
    assert isinstance(broken.value.__cause__, RuntimeError)
    await broker.close()
    assert not database.path.parent.exists(), "the temporary folder stays"


async def test_topics_of_which_nothing_goes_cost_no_commit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    expired: list[str] = []
    monkeypatch.setattr("tidings.brokers.sqlite._expire", lambda connection, values: expired.append(values) or 0)
    await site.open(keep=DAY)
    await site.publish(10)
    await site.broker.declare("empty", ["g"])
    assert await site.left() == 10
    assert not expired
    site.clock.move(site.clock.now() + 2 * DAY)
    await site.left()
    assert len(expired) == 1
