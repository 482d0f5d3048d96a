"""PostgreSQL as the broker's server: what goes wrong with it, and what holds all the same."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import psycopg
import pytest

from tests.lifetime import kept_open
from tidings.broker import Delivery, Record, Subscription
from tidings.brokers.postgres import PostgresBroker
from tidings.clock import Clock
from tidings.errors import PublishFailed
from tidings.pg import lending, log
from tidings.pg.connection import Connection, Row
from tidings.pg.database import Database
from tidings.pg.group import Group

TOPIC, GROUP = "t", "g"
PATIENCE = 60.0


def opened(url: str, lease: float = 30.0) -> contextlib.AbstractAsyncContextManager[PostgresBroker]:
    return kept_open(PostgresBroker(Database(url, Clock(), idle=lease), Clock(), lease=lease))


@pytest.fixture
async def broker(empty_database: str) -> AsyncIterator[PostgresBroker]:
    async with opened(empty_database) as broker:
        yield broker


@contextlib.contextmanager
def looking(url: str) -> Iterator[psycopg.Connection]:
    """From outside, as an administrator."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def record(id: str, key: str | None = "k") -> Record:
    return Record(TOPIC, b"{}", key, "t", id, 1_767_225_600.0)


async def take(group: Subscription, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            lent = await group.fetch(1000, 1.0)
            await group.ack(lent)
            taken += lent
    return taken


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not so():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.record.id for delivery in deliveries]


# -- positions become visible in their order


class LateWriter(threading.Thread):
    """Appends, and takes its time until it commits."""

    def __init__(self, url: str, topic: int, number: int, commits: int, each: int) -> None:
        super().__init__(daemon=True)
        self.url, self.topic, self.number, self.commits, self.each = url, topic, number, commits, each

    def run(self) -> None:
        chance = random.Random(self.number)
        connection = Database(self.url, Clock(), durable=False).connect()
        try:
            for turn in range(self.commits):
                with connection.transaction():
                    log.append(connection, [self.entry(turn, index) for index in range(self.each)])
                    connection.execute("SELECT pg_sleep(%s)", (chance.choice((0, 0, 0.002, 0.01)),))
        finally:
            connection.close()

    def entry(self, turn: int, index: int) -> log.Entry:
        return self.topic, self.number, f"{self.number}-{turn:05}-{index:03}", "t", b"k", 0.0, "{}", b""


async def skipped(broker: PostgresBroker, url: str, commits: int, each: int) -> int:
    """How many of the records of eight writers, who commit late, a group never gets that reads meanwhile."""
    await broker.declare(TOPIC, [GROUP])
    group = await broker.subscribe([TOPIC], GROUP)
    writers = [LateWriter(url, broker.topics[TOPIC], number, commits, each) for number in range(8)]
    for writer in writers:
        writer.start()
    seen: list[str] = []
    quiet = 0
    while quiet < 2:
        lent = await group.fetch(500, 0.5)
        await group.ack(lent)
        seen += ids(lent)
        quiet = 0 if lent or any(writer.is_alive() for writer in writers) else quiet + 1
    for number in range(8):
        mine = [id for id in seen if id.startswith(f"{number}-")]
        assert mine == sorted(mine)
    assert len(seen) == len(set(seen))
    return 8 * commits * each - len(seen)


async def test_no_reader_passes_a_record_that_is_committed_later(broker: PostgresBroker, empty_database: str) -> None:
    assert await skipped(broker, empty_database, commits=40, each=5) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_reader_passes_one_of_100_000_records(broker: PostgresBroker, empty_database: str) -> None:
    assert await skipped(broker, empty_database, commits=625, each=20) == 0


async def race(broker: PostgresBroker, url: str) -> list[str]:
    """What a group gets when a second writer would like to commit between the append and the commit of a first one."""
    await broker.declare(TOPIC, [GROUP])
    group = await broker.subscribe([TOPIC], GROUP)
    first, second = (Database(url, Clock()).connect() for _ in range(2))

    def write(connection: Connection, id: str) -> None:
        log.append(connection, [(broker.topics[TOPIC], 0, id, "t", None, 0.0, "{}", b"")])

    def overtake() -> None:
        with second.transaction():
            write(second, "second")

    with contextlib.closing(first), contextlib.closing(second):
        with first.transaction():
            write(first, "first")
            overtaking = asyncio.create_task(asyncio.to_thread(overtake))
            seen = ids(await settled(group, 0.5))
        await overtaking
        return seen + ids(await settled(group, 0.5))


async def settled(group: Subscription, wait: float) -> Sequence[Delivery]:
    lent = await group.fetch(10, wait)
    await group.ack(lent)
    return lent


async def test_who_appends_waits_for_the_commit_of_who_was_first(broker: PostgresBroker, empty_database: str) -> None:
    assert await race(broker, empty_database) == ["first", "second"]


async def test_without_the_lock_a_record_would_be_passed(
    broker: PostgresBroker, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "APPEND", log.APPEND.replace("pg_advisory_xact_lock(29797, %s)", "%s"))
    assert await race(broker, empty_database) == ["second"]


# -- connections that are lost


def end_sessions(url: str) -> int:
    """Terminate the backends of all members and publishers."""
    with looking(url) as connection:
        ended = connection.execute(
            """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'tidings'"""
        ).fetchone()
    return int(ended[0]) if ended else 0


async def test_a_listener_that_was_ended_is_made_anew(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(empty_database) as one, opened(empty_database) as other:
        group = await one.subscribe([TOPIC], GROUP)
        for turn in range(3):
            waiting = asyncio.create_task(take(group, 1))
            await asyncio.sleep(0.05)
            assert end_sessions(empty_database) >= 2
            await other.publish([record(f"r{turn}")])
            assert ids(await waiting) == [f"r{turn}"]
        await heard_again(one, other, monkeypatch)


async def heard_again(one: PostgresBroker, other: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until hints come again: sooner than anybody looks."""
    async with asyncio.timeout(PATIENCE):
        heard = asyncio.Event()
        monkeypatch.setattr(one, "heard", lambda topics=None: heard.set())
        for number in itertools.count():
            await other.publish([record(f"again-{number}")])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await heard.wait()
                    return


async def test_records_come_without_any_hint(broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "heard", lambda topics=None: None)
    broker.writer._grown = lambda topics: None
    group = await broker.subscribe([TOPIC], GROUP)
    waiting = asyncio.create_task(take(group, 1))
    await asyncio.sleep(0.1)
    await broker.publish([record("r1")])
    began = time.monotonic()
    assert ids(await waiting) == ["r1"]
    assert time.monotonic() - began < 5.0


async def test_a_log_is_read_again_only_when_it_has_grown(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.pg.group.LOOK", 3600.0)
    read, reads = broker.read, 0

    async def counted(sql: str, values: object = None) -> list[Row]:
        nonlocal reads
        reads += sql == lending.LEND_ALL
        return await read(sql, values)

    group = await broker.subscribe([TOPIC], GROUP)
    assert isinstance(group, Group)
    monkeypatch.setattr(broker, "read", counted)
    waiting = asyncio.create_task(group.fetch(10, PATIENCE))
    for turn in range(5):  # woken for other reasons
        await until(lambda: bool(reads) and not group.wake.is_set())
        group.wake.set()
        assert reads == 1, turn
    await broker.publish([record("r1")])
    assert ids(await waiting) == ["r1"]
    assert reads == 2


async def test_a_listener_that_is_half_open_delays_nobody_for_long(empty_database: str) -> None:
    """Its backend stands still: the line is there, and nothing comes through it."""
    async with opened(empty_database) as one, opened(empty_database) as other:
        group = await one.subscribe([TOPIC], GROUP)
        await take_one(other, group, "first")
        connection = one.keeper._connection
        assert connection is not None
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            for turn in range(3):
                began = time.monotonic()
                await take_one(other, group, f"r{turn}")
                assert time.monotonic() - began < 5.0
        finally:
            os.kill(pid, signal.SIGCONT)


async def take_one(publisher: PostgresBroker, group: Subscription, id: str) -> None:
    waiting = asyncio.create_task(take(group, 1))
    await asyncio.sleep(0.05)
    await publisher.publish([record(id)])
    assert ids(await waiting) == [id]


async def test_another_process_is_told_at_once(empty_database: str) -> None:
    async with opened(empty_database) as one, opened(empty_database) as other:
        group = await one.subscribe([TOPIC], GROUP)
        latencies = []
        for turn in range(20):
            waiting = asyncio.create_task(take(group, 1))
            await asyncio.sleep(0.02)
            began = time.monotonic()
            await other.publish([record(f"r{turn}")])
            await waiting
            latencies.append(time.monotonic() - began)
        assert sorted(latencies)[10] < 0.5, "half of them came sooner than by looking"


async def test_publishers_and_members_outlive_the_end_of_their_sessions(
    broker: PostgresBroker, empty_database: str
) -> None:
    group = await broker.subscribe([TOPIC], GROUP)
    wanted = {f"r{number:02}" for number in range(50)}
    taking = asyncio.create_task(take_all(group, wanted))
    for number in range(50):
        if number % 10 == 5:
            end_sessions(empty_database)
        with contextlib.suppress(PublishFailed):
            await broker.publish([record(f"r{number:02}")])
    for number in range(50):  # what was in doubt is published again, and kept once
        await broker.publish([record(f"r{number:02}")])
    assert await taking == wanted


async def take_all(group: Subscription, wanted: set[str]) -> set[str]:
    """Until these have come. One comes again where its session ended before its acknowledgement was kept."""
    seen: set[str] = set()
    async with asyncio.timeout(PATIENCE):
        while not wanted <= seen:
            lent = await group.fetch(1000, 1.0)
            await group.ack(lent)
            seen.update(ids(lent))
    return seen
