"""Apps on PostgreSQL, whole: state, the user's own SQL, messages and acknowledgement are one commit."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.brokers.postgres_shop import TABLES, Ordered, shop
from tidings import App, Event, Retry, Sql, Tx
from tidings.clock import Clock
from tidings.pg.database import Database
from tidings.pg.lent import PostgresScope, PostgresSql
from tidings.runtime import Runtime
from tidings.store import Table
from tidings.stores.postgres import PostgresStore

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
DEAD = "SELECT count(*) FROM tidings.log l JOIN tidings.topic t ON t.id = l.topic WHERE t.name = 'dead.jobs.work'"


def rows(url: str, sql: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


def run(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


@contextlib.asynccontextmanager
async def running(app: App) -> AsyncIterator[Runtime]:
    runtime = Runtime([app])
    await runtime.open()
    try:
        runtime.start()
        yield runtime
        assert await runtime.drain(5.0)
    finally:
        await runtime.close()


async def until(url: str, sql: str, wanted: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await asyncio.to_thread(rows, url, sql)
            if found == wanted:
                return
            await asyncio.sleep(0.1)


# -- one process


async def test_rows_sql_sessions_and_messages_are_one_commit(empty_database: str) -> None:
    run(empty_database, TABLES)
    app = shop(empty_database)
    async with running(app):
        for number in range(60):
            await app.publish(Ordered(customer=f"c{number % 3}", number=number))
        await until(empty_database, "SELECT count(*) FROM shipped", [(60,)])
        await until(empty_database, "SELECT count(*) FROM audited", [(60,)])
        await until(empty_database, "SELECT count(*) FROM booked", [(60,)])
    for key in ("c0", "c1", "c2"):
        numbers = [
            number for (number,) in rows(empty_database, f"SELECT number FROM booked WHERE key = '{key}' ORDER BY seq")
        ]
        assert numbers == list(range(int(key[1]), 60, 3))


class Job(Event, name="job.made", version="1.0", key="id"):
    id: str


async def test_a_failure_undoes_its_own_sql_and_no_other(empty_database: str) -> None:
    run(empty_database, "CREATE TABLE done (id text UNIQUE, tried int)")
    app = App("jobs", broker=empty_database)
    tries: dict[str, int] = {}

    @app.on(Job, retry=Retry(times=3, first=0.05))
    def work(job: Job, db: psycopg.Connection) -> None:
        tries[job.id] = tries.get(job.id, 0) + 1
        db.execute("INSERT INTO done VALUES (%s, %s)", (job.id, tries[job.id]))
        if job.id in ("b", "c") and tries[job.id] < 4:
            raise ValueError("not yet")
        if job.id == "d" and tries[job.id] < 2:
            db.execute("SELECT no_such_column")

    async with running(app):
        for id in "abcdef":
            await app.publish(Job(id=id))
        await until(empty_database, "SELECT id FROM done ORDER BY id", [(id,) for id in "abcdef"])


async def test_a_connection_that_is_lost_in_a_handler_is_no_failure_of_the_event(empty_database: str) -> None:
    run(empty_database, "CREATE TABLE done (id text)")
    app = App("jobs", broker=empty_database)
    lost: set[str] = set()

    @app.on(Job, retry=Retry(times=0))
    def work(job: Job, session: Session) -> None:
        if job.id not in lost:
            lost.add(job.id)
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        session.execute(text("INSERT INTO done VALUES (:id)"), {"id": job.id})

    async with running(app):
        await app.publish(Job(id="a"))
        await app.publish(Job(id="b"))
        await until(empty_database, "SELECT id FROM done ORDER BY id", [("a",), ("b",)])
    assert rows(empty_database, DEAD) == [(0,)]


async def test_what_sql_writes_is_seen_in_its_order_by_all_that_the_handler_asks_for(empty_database: str) -> None:
    run(empty_database, "CREATE TABLE done (id text)")
    app = App("jobs", broker=empty_database)
    seen: list[list[str]] = []

    @app.on(Job)
    def work(job: Job, db: Sql, session: Session) -> None:
        db.execute("INSERT INTO done VALUES (?)", (job.id,))
        session.execute(text("DELETE FROM done"))
        db.executemany("INSERT INTO done VALUES (?)", [(f"{job.id}1",), (f"{job.id}2",)])
        seen.append([id for (id,) in db.execute("SELECT id FROM done ORDER BY id")])

    async with running(app):
        await app.publish(Job(id="a"))
        await until(empty_database, "SELECT id FROM done ORDER BY id", [("a1",), ("a2",)])
    assert seen == [["a1", "a2"]]


async def test_what_sql_writes_goes_to_the_server_at_the_end_of_the_handlers(empty_database: str) -> None:
    run(empty_database, "CREATE TABLE done (id text)")
    with contextlib.closing(Database(empty_database, Clock()).connect()) as connection:
        db = PostgresSql(connection)
        with PostgresScope(connection, careful=False):
            db.execute("INSERT INTO done VALUES (?)", ("a",))
            db.executemany("INSERT INTO done VALUES (?)", [("b",)])
            assert rows(empty_database, "SELECT * FROM done") == []
            assert db.execute("INSERT INTO done VALUES (?) RETURNING id", ("c",)) == [("c",)]
            assert rows(empty_database, "SELECT * FROM done") == [("a",), ("b",), ("c",)]
            db.execute("DELETE FROM done")
        assert rows(empty_database, "SELECT * FROM done") == []
        with PostgresScope(connection, careful=True):
            db.execute("INSERT INTO done VALUES (?)", ("d",))
            assert rows(empty_database, "SELECT * FROM done") == [("d",)]


@pytest.mark.parametrize("values", [("x",), (object(),)], ids=["refused by the server", "no value for a server"])
async def test_what_sql_may_not_write_is_the_failure_of_its_own_event(empty_database: str, values: Any) -> None:
    run(empty_database, "CREATE TABLE done (id text UNIQUE); INSERT INTO done VALUES ('x')")
    app = App("jobs", broker=empty_database)

    @app.on(Job, retry=Retry(times=0))
    def work(job: Job, db: Sql) -> None:
        db.execute("INSERT INTO done VALUES (?)", values if job.id == "c" else (job.id,))

    async with running(app):
        await app.publish(*(Job(id=id) for id in "abcdef"))
        await until(empty_database, "SELECT id FROM done ORDER BY id", [(id,) for id in "abdefx"])
        await until(empty_database, DEAD, [(1,)])


def many(db: psycopg.Connection, id: str) -> None:
    db.cursor().executemany("INSERT INTO done VALUES (%s)", [(id,), (id,)])


def copied(db: psycopg.Connection, id: str) -> None:
    with db.cursor().copy("COPY done FROM STDIN") as copy:
        copy.write_row((id,))
        copy.write_row((id,))


def streamed(db: psycopg.Connection, id: str) -> None:
    assert list(db.cursor().stream("INSERT INTO done VALUES (%s), (%s) RETURNING id", (id, id))) == [(id,), (id,)]


@pytest.mark.parametrize("write", [many, copied, streamed])
async def test_a_failure_undoes_what_was_written_by_other_ways_than_execute(
    empty_database: str, write: Callable[[psycopg.Connection, str], None]
) -> None:
    run(empty_database, "CREATE TABLE done (id text)")
    app = App("jobs", broker=empty_database)
    failed: set[str] = set()

    @app.on(Job, retry=Retry(times=3, first=0.05))
    def work(job: Job, db: psycopg.Connection) -> None:
        write(db, job.id)
        if job.id in "bc" and job.id not in failed:
            failed.add(job.id)
            raise ValueError("not yet")

    async with running(app):
        await asyncio.gather(*(app.publish(Job(id=id)) for id in "abcdef"))
        wanted = [(id,) for id in "abcdef" for _ in range(2)]
        await until(empty_database, "SELECT id FROM done ORDER BY id", wanted)


@pytest.mark.parametrize("statement", ["COMMIT", "rollback", "INSERT INTO done VALUES ('x'); COMMIT; BEGIN"])
async def test_a_handler_cannot_end_the_transaction(empty_database: str, statement: str) -> None:
    run(empty_database, "CREATE TABLE done (id text)")
    app = App("jobs", broker=empty_database)

    @app.on(Job, retry=Retry(times=0))
    def work(job: Job, db: psycopg.Connection) -> None:
        db.execute("INSERT INTO done VALUES (%s)", (job.id,))
        if job.id == "bad":
            db.execute(statement.encode())

    @app.on(Job)
    def nest(job: Job, db: psycopg.Connection) -> None:
        with db.transaction(), contextlib.suppress(psycopg.errors.UndefinedTable), db.transaction():
            db.execute("SELECT * FROM no_such_table")

    async with running(app):
        for id in ("good", "bad", "last"):
            await app.publish(Job(id=id))
        await until(empty_database, "SELECT id FROM done ORDER BY id", [("good",), ("last",)])
        dead = (
            "SELECT l.headers FROM tidings.log l JOIN tidings.topic t ON t.id = l.topic WHERE t.name = 'dead.jobs.work'"
        )
        await until(empty_database, f"SELECT count(*) FROM ({dead}) d", [(1,)])
        assert "TransactionEnded" in rows(empty_database, dead)[0][0]


async def test_what_is_refused_at_the_commit_is_the_failure_of_its_event(empty_database: str) -> None:
    run(empty_database, "CREATE TABLE done (id text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    run(empty_database, "INSERT INTO done VALUES ('bad')")
    app = App("jobs", broker=empty_database)
    tries: list[str] = []

    @app.on(Job, retry=Retry(times=1, first=0.01, at_once=0))
    def work(job: Job, db: psycopg.Connection) -> None:
        tries.append(job.id)
        db.execute("INSERT INTO done VALUES (%s)", (job.id,))

    async with running(app):
        await app.publish(*(Job(id=id) for id in ("first", "bad", "last")))
        await until(empty_database, "SELECT id FROM done ORDER BY id", [("bad",), ("first",), ("last",)])
        dead = "SELECT headers FROM tidings.log WHERE headers LIKE '%CommitRefused%'"
        await until(empty_database, f"SELECT count(*) FROM ({dead}) d", [(1,)])
    assert tries.count("bad") >= 2


SUMS = Table("sums", int)


def summing(name: str, url: str) -> App:
    app = App(name, broker=url)

    @app.on(Job, concurrency=4)
    async def add(job: Job, tx: Tx) -> None:
        total = await tx.get(SUMS, "total", default=0)
        await asyncio.sleep(0)
        tx.put(SUMS, "total", total + 1)

    return app


async def test_what_has_read_a_transaction_that_is_discarded_meanwhile_is_run_again(empty_database: str) -> None:
    store = PostgresStore(Database(empty_database, Clock()))
    await store.open()
    try:
        first, second, third = store.begin(), store.begin(), store.begin()
        first.put(SUMS, "total", 1)
        assert store.finish(first)
        second.put(SUMS, "total", await second.get(SUMS, "total", 0) + 1)
        await third.get(SUMS, "other", 0)
        store.discard(first)
        assert not store.finish(second)  # or the next one would build on it, be doomed as well, and so on for ever
        assert store.finish(third)
        assert await store.begin().get(SUMS, "total", 0) == 0
    finally:
        await store.close()


async def test_apps_do_not_overwrite_what_others_have_written(empty_database: str) -> None:
    """Each has a connection of its own, as processes have: who has read what another changes runs again."""
    apps = [summing(name, empty_database) for name in ("one", "two", "three")]
    async with contextlib.AsyncExitStack() as stack:
        runtimes = [await stack.enter_async_context(running(app)) for app in apps]
        for number in range(30):
            await apps[0].publish(Job(id=f"j{number}"))
        async with asyncio.timeout(PATIENCE):
            while True:
                if sum(worker.meter.handled for runtime in runtimes for worker in runtime.workers) >= 90:
                    break
                await asyncio.sleep(0.05)
        assert apps[0].connection is not None
        assert await apps[0].connection.store.begin().get(SUMS, "total") == 90


# -- many processes, some of which die


async def start(url: str, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.brokers.postgres_shop", url, *words, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


@pytest.mark.crash
@pytest.mark.timeout(120)
async def test_an_event_that_kills_its_worker_is_found_out(empty_database: str) -> None:
    run(empty_database, TABLES)
    app = shop(empty_database)
    async with running(app):
        pass
    speaker = App("speaker", broker=empty_database)
    async with running(speaker):
        for number in range(40):
            await speaker.publish(Ordered(customer=f"c{number}", number=number))
    deaths = 0
    async with asyncio.timeout(100):
        while rows(empty_database, "SELECT count(*) FROM booked") != [(39,)] or not dead_letters(empty_database):
            worker = await start(empty_database, "--dies-of", "13")
            while worker.returncode is None:
                if rows(empty_database, "SELECT count(*) FROM booked") == [(39,)] and dead_letters(empty_database):
                    worker.send_signal(signal.SIGTERM)
                    break
                await asyncio.sleep(0.2)
            deaths += await worker.wait() == -signal.SIGKILL
    assert 1 <= deaths <= 6
    assert rows(empty_database, "SELECT count(*) FROM booked WHERE number = 13") == [(0,)]


def dead_letters(url: str) -> int:
    sql = "SELECT count(*) FROM tidings.log l JOIN tidings.topic t ON t.id = l.topic WHERE t.name = 'dead.shop.book'"
    return int(rows(url, sql)[0][0])


@pytest.mark.crash
@pytest.mark.timeout(120)
async def test_nothing_is_lost_or_doubled_when_workers_are_killed(empty_database: str) -> None:
    run(empty_database, TABLES)
    app = shop(empty_database)
    async with running(app):
        pass  # the groups exist: what is published from here on is theirs
    chance = random.Random(1)
    workers = [await start(empty_database) for _ in range(2)]
    speaker = App("speaker", broker=empty_database)
    try:
        async with running(speaker):
            for number in range(800):
                await speaker.publish(Ordered(customer=f"c{number % 16}", number=number))
                if number % 200 == 150:
                    victim = workers.pop(chance.randrange(2))
                    victim.send_signal(signal.SIGKILL)
                    await victim.wait()
                    workers.append(await start(empty_database))
        for table in ("booked", "shipped", "audited"):
            await until(empty_database, f"SELECT count(DISTINCT number) FROM {table}", [(800,)])
            assert rows(empty_database, f"SELECT count(*) FROM {table}") == [(800,)], table
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        assert [await worker.wait() for worker in workers] == [0, 0]
    for key in range(16):
        ordered = rows(empty_database, f"SELECT number FROM booked WHERE key = 'c{key}' ORDER BY seq")
        assert ordered == sorted(ordered)
