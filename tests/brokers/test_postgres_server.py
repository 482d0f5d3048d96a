"""The server goes away, stands still, or refuses: what is acknowledged stays, and a sentence says what to do."""

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.lifetime import kept_open
from tidings.broker import Record
from tidings.brokers.postgres import PostgresBroker
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect
from tidings.dev import Postgres
from tidings.errors import (
    ConfigError,
    InvalidEvent,
    PublishFailed,
    StorageError,
    StorageForeign,
    StorageFull,
    StorageReadOnly,
    StorageTooNew,
    StorageUnsafe,
    Unreachable,
)
from tidings.pg.database import Database, named, refused
from tidings.stores.postgres import PostgresStore

TOPIC, GROUP = "t", "g"
PATIENCE = 60.0


def opened(url: str) -> contextlib.AbstractAsyncContextManager[PostgresBroker]:
    return kept_open(PostgresBroker(Database(url, Clock()), Clock()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.01)


def record(id: str) -> Record:
    return Record(TOPIC, b"{}", "k", "t", id)


def database(url: str) -> Database:
    return Database(url, Clock())


# -- it goes away


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_twice(
    postgres_server: Postgres, empty_database: str
) -> None:
    async with opened(empty_database) as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        acknowledged: set[str] = set()
        seen: list[str] = []
        stop = asyncio.Event()

        async def publish(number: int) -> None:
            turn = 0
            while not stop.is_set():
                id = f"{number}-{turn}"
                with contextlib.suppress(StorageError, PublishFailed):
                    await broker.publish([record(id)])
                    acknowledged.add(id)
                    turn += 1
                await asyncio.sleep(0.0003)

        async def consume() -> None:
            while True:
                with contextlib.suppress(StorageError):
                    lent = await group.fetch(100, 0.5)
                    await group.ack(lent)
                    seen.extend(delivery.record.id for delivery in lent)

        consuming = asyncio.create_task(consume())
        publishing = [asyncio.create_task(publish(number)) for number in range(5)]
        for _ in range(2):
            await asyncio.to_thread(postgres_server.kill9)
            await asyncio.to_thread(postgres_server.start)
            wanted = len(acknowledged) + 50
            await until(lambda wanted=wanted: len(acknowledged) >= wanted)
        stop.set()
        await asyncio.gather(*publishing)
        await until(lambda: acknowledged <= set(seen))
        consuming.cancel()
        assert len(set(seen) - acknowledged) <= 10, "in doubt is at most what was under way"


async def test_it_is_tried_at_most_twice_a_second_while_it_is_down(
    postgres_server: Postgres, empty_database: str
) -> None:
    async with opened(empty_database) as broker:
        await broker.subscribe([TOPIC], GROUP)
        await asyncio.to_thread(postgres_server.kill9)
        attempts, until = 0, time.monotonic() + 4.0
        try:
            with socket.create_server(("127.0.0.1", postgres_server.port)) as door:
                door.settimeout(0.1)
                failing = [asyncio.create_task(broker.publish([record(f"r{number}")])) for number in range(20)]
                while time.monotonic() < until:
                    try:
                        visitor, _ = await asyncio.to_thread(door.accept)
                    except TimeoutError:
                        continue
                    attempts += 1
                    visitor.close()
        finally:
            await asyncio.to_thread(postgres_server.start)
        assert 1 <= attempts <= 8
        await asyncio.gather(*failing, return_exceptions=True)
        await broker.publish([record("last")])


async def test_a_server_that_stands_still_is_told_of_and_waited_for(
    postgres_server: Postgres, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.pg.writer.BUSY_WAIT", 1.0)
    monkeypatch.setattr("tidings.pg.writer.DEADLINE", 1.5)
    monkeypatch.setattr("tidings.pg.keeper.DEADLINE", 1.0)
    async with opened(empty_database) as broker:
        await broker.publish([record("r1")])
        await asyncio.to_thread(postgres_server.pause)
        try:
            with pytest.raises(PublishFailed, match="did not take it within"):
                await broker.publish([record("r2")])
        finally:
            await asyncio.to_thread(postgres_server.resume)
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(PublishFailed):
                    await broker.publish([record("r2")])
                    break


# -- a commit whose outcome nobody heard

SLOW_COMMIT = """
CREATE TABLE effects (id text);
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION slowly();
"""


def committing(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'")
        return bool((row.fetchone() or (0,))[0])


async def commit_and_meanwhile(url: str, end: str) -> None:
    """Commit an effect; in the middle of the commit, lose the connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SLOW_COMMIT.encode())
    async with opened(url) as broker:
        store = PostgresStore(broker.database, lambda: broker.writer)
        await store.open()
        unit = store.unit()
        unit.add(lambda connection: connection.execute("INSERT INTO effects VALUES ('e1')"))
        task = asyncio.create_task(unit.commit())
        await until(lambda: committing(url))
        if end == "line":
            assert broker.writer._connection is not None
            broker.writer._connection.cut()
        else:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'COMMIT'")
        try:
            await task
        finally:
            await store.close()


def effects(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM effects").fetchone()
        return int(row[0]) if row else 0


async def test_a_commit_that_happened_unheard_is_known_to_have_happened(empty_database: str) -> None:
    await commit_and_meanwhile(empty_database, "line")
    assert effects(empty_database) == 1


async def test_a_commit_that_did_not_happen_is_an_error(empty_database: str) -> None:
    with pytest.raises(StorageError):
        await commit_and_meanwhile(empty_database, "backend")
    assert effects(empty_database) == 0


# -- it refuses


async def test_a_server_that_is_not_there(empty_database: str) -> None:
    with pytest.raises(Unreachable, match=r"cannot be connected to: .*refused.*Is the server up"):
        database("postgresql://me:secret@127.0.0.1:1/nowhere").prepare()


@pytest.fixture
def locked(postgres_server: Postgres, empty_database: str) -> Iterator[str]:
    """A user with a password."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE ROLE locked LOGIN PASSWORD 'swordfish'")
        (file,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        path = Path(file)
        before = path.read_text()
        path.write_text("host all locked 127.0.0.1/32 scram-sha-256\n" + before)
        connection.execute("SELECT pg_reload_conf()")
        yield empty_database.replace("postgres@", "locked:swordfish@")
        path.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP OWNED BY locked")
        connection.execute("DROP ROLE locked")


async def test_a_wrong_password_is_told_and_never_shown(locked: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageError, match="Check user, password") as told:
        database(locked.replace("swordfish", "haddock")).prepare()
    assert not isinstance(told.value, Unreachable)
    assert "haddock" not in str(told.value) + caplog.text
    with pytest.raises(StorageError, match="wants a password"):
        database(locked.replace(":swordfish", "")).prepare()


async def test_a_user_without_rights(locked: str, empty_database: str) -> None:
    with pytest.raises(StorageReadOnly, match="GRANT CREATE ON DATABASE"):
        database(locked).prepare()
    database(empty_database).prepare()
    with pytest.raises(StorageReadOnly, match="grant USAGE on schema tidings"):
        database(locked).prepare()


async def test_a_database_that_takes_no_writes(empty_database: str) -> None:
    name = empty_database.rpartition("/")[2]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    with pytest.raises(StorageReadOnly, match="read-only for this user"):
        database(empty_database).prepare()


def test_a_standby_is_refused(tmp_path: Path) -> None:
    with Postgres(tmp_path / "standby") as server:
        server.stop()
        (tmp_path / "standby" / "data" / "standby.signal").touch()
        server.start()
        with pytest.raises(StorageReadOnly, match=r"is a standby.*target_session_attrs=read-write"):
            database(server.url).prepare()


async def test_a_database_that_cannot_hold_every_character(postgres_server: Postgres, empty_database: str) -> None:
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        with pytest.raises(StorageUnsafe, match=r"keeps text as LATIN1.*ENCODING 'UTF8'"):
            database(postgres_server.url.rpartition("/")[0] + "/latin").prepare()
        connection.execute("DROP DATABASE latin WITH (FORCE)")


async def test_what_others_have_made(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA tidings")
        with pytest.raises(StorageForeign, match="that tidings did not make"):
            database(empty_database).prepare()
        connection.execute("DROP SCHEMA tidings")
        database(empty_database).prepare()
        connection.execute("UPDATE tidings.format SET version = 99")
    with pytest.raises(StorageTooNew, match="format 99"):
        database(empty_database).prepare()


def test_each_error_of_the_server_has_its_name() -> None:
    assert isinstance(named(psycopg.errors.DiskFull("no space left"), "db"), StorageFull)
    gone = psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly")
    assert isinstance(named(gone, "db"), Unreachable)  # who starts just now waits for it
    starting = psycopg.OperationalError("connection failed: FATAL:  the database system is starting up")
    assert isinstance(refused(starting, "db"), Unreachable)
    with pytest.raises(StorageUnsafe, match="needs 13 or newer"):
        database("postgresql://127.0.0.1/x")._check((12_00_05, False, False, True, "UTF8"))


# -- addresses


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://me:secret@127.0.0.1/db?lease=soon", "lease=soon does not fit: a number of seconds"),
        ("postgresql://me:secret@127.0.0.1/db?durable=perhaps", "durable=perhaps does not fit: yes or no"),
        ("postgresql://me:secret@127.0.0.1/db?colour=red", "options that libpq knows"),
    ],
)
async def test_an_address_that_is_none(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        connect(load(broker=url), Clock())
    assert "secret" not in str(error.value)


async def test_an_address_with_options_of_the_driver(empty_database: str) -> None:
    url = f"{empty_database}?lease=7&durable=no&application_name=shop&sslmode=prefer".replace(
        "postgresql", "postgres", 1
    )
    connection = connect(load(broker=url), Clock())
    assert isinstance(connection.broker, PostgresBroker)
    assert connection.broker.lease == 7.0
    await connection.open()
    try:
        rows = await connection.broker.read("SELECT current_setting('application_name')")
        assert rows == [("shop",)]
    finally:
        await connection.close()


async def test_the_store_has_to_be_the_same_database(empty_database: str) -> None:
    with pytest.raises(ConfigError, match="both have to be one database"):
        connect(load(broker=empty_database, store="postgresql://other/db"), Clock())


async def test_text_that_postgresql_cannot_hold_is_refused_alone(empty_database: str) -> None:
    async with opened(empty_database) as broker:
        results = await asyncio.gather(
            broker.publish([record("r1")]), broker.publish([record("nul \0")]), broker.publish([record("r2")]),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(result) for result in results] == [type(None), InvalidEvent, type(None)]


@pytest.mark.filterwarnings("error")
async def test_a_connection_that_is_given_up_while_it_is_made_is_closed(empty_database: str) -> None:
    database = Database(empty_database, Clock())
    connected = False
    steps = 0
    while not connected:
        task = asyncio.create_task(database.connect_async())
        for _ in range(steps):
            await asyncio.sleep(0.0003)
        connected = not task.cancel()
        if connected:
            await task.result().close()
        else:
            await asyncio.wait([task])
        steps += 1
        database = Database(empty_database, Clock())
    gc.collect()  # one that was left open says so, and is an error
    assert steps > 1


async def test_what_has_to_go_through_a_small_table_is_not_compiled(empty_database: str) -> None:
    ours = Database(empty_database, Clock())
    await asyncio.to_thread(ours.prepare)
    with ours.connect(durable=False) as connection:
        plan = "\n".join(row[0] for row in connection.execute("EXPLAIN SELECT count(*) FROM tidings.member"))
        assert "JIT" not in plan
    with ours.connect() as lent, psycopg.connect(empty_database) as plain:
        (theirs,), (asked,) = plain.execute("SHOW jit").fetchall()[0], lent.execute("SHOW jit").fetchall()[0]
        assert asked == theirs, "what handlers do with it is their own affair"
