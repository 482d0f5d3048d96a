"""`tidings migrate`: the events of a file move to a server; nothing is lost, handled twice or out of order."""

import asyncio
import contextlib
import fcntl
import itertools
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import redis

from tests.cli.terminal import failed, tidings
from tests.moving.house import (
    AT,
    GROUPS,
    TRIED,
    at,
    furnish,
    heard,
    in_order,
    migrate,
    published,
    record,
    records,
    rows,
)
from tidings.broker import Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.dev import Nats, Postgres, Valkey
from tidings.embedded import fence
from tidings.errors import BrokerError, Moved
from tidings.moving import migration
from tidings.moving.migration import Migration
from tidings.moving.source import Source
from tidings.moving.tally import difference
from tidings.moving.target import target
from tidings.store import Table

NUMBERS = itertools.count(1)
FREE, FENCED, MOVED = "", "is moving to", "has moved to"
DEATHS = [
    ("begun", FREE),
    ("beginning", FREE),
    ("copied", FREE),
    ("beginning", FREE),
    ("drained", FREE),
    ("fenced", FENCED),
    ("compared", FENCED),
    ("settling", FENCED),
    ("settled", MOVED),
]
"""Where the command is killed, one time after the other, and what publishers at the file are told then."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tidings.db"


@pytest.fixture
def valkey(valkey_server: Valkey) -> str:
    return f"{valkey_server.url}?prefix=move{next(NUMBERS)}"


@pytest.fixture
def nats(nats_server: Nats) -> str:
    return f"{nats_server.url}?prefix=move{next(NUMBERS)}"


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[str]:
    name = f"move{next(NUMBERS)}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres_server.url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def store(url: str, path: Path) -> str | None:
    return None if url.startswith("postgres") else f"sqlite:{path}"


async def moved_in(url: str, path: Path, left: dict[str, list[str]], count: int = 60) -> None:
    """Everything is there as it was, and each group does there what it has not done at the file, and nothing else."""
    async with at(url, store(url, path)) as there:
        view = await there.broker.subscribe(["order", "stock"], None, Start.EARLIEST)
        found: dict[str, Record] = {}
        async with asyncio.timeout(60):
            while len(found) < 2 * count:
                found |= {each.record.id: each.record for each in await view.fetch(500, 1.0)}
        assert [difference(found[each.id], each) for each in records(count)] == [""] * (2 * count)
        for group, ids in left.items():
            got = await heard(there, group, len(ids))
            assert in_order(got.ids, ids), group
            assert got.attempts == {id: 2 if (group, id) == ("shop.count", TRIED) else 1 for id in ids}


@pytest.mark.parametrize("server", ["valkey", "nats", "postgres"])
async def test_history_and_what_groups_have_done_moves(server: str, path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(server)
    left = await furnish(path)
    result = await asyncio.to_thread(migrate, path, url, "--json")
    assert result.code == 0, result.err
    told = result.json
    assert [(topic["topic"], topic["events"]) for topic in told["topics"]] == [("order", 60), ("stock", 60)]
    assert (told["groups"], told["delayed"], told["drained"]) == (len(GROUPS), 1, True)
    await moved_in(url, path, left)


@pytest.mark.timeout(180)
async def test_killed_at_every_point_it_goes_on(path: Path, valkey: str) -> None:
    left = await furnish(path)
    more = itertools.count(60)
    for place, told in DEATHS:
        result = await asyncio.to_thread(migrate, path, valkey, failpoint=f"{place}:1=kill")
        assert result.code == -signal.SIGKILL, (place, result.err)
        number = next(more)
        said = await published(path, number)
        assert told in said if told else not said, place
        if not told:
            for ids in left.values():
                ids.append(f"order-{number}")
    result = await asyncio.to_thread(migrate, path, valkey)
    assert result.code == 0
    assert "has moved" in result.out
    await moved_in(valkey, path, left)


async def move_away(path: Path) -> None:
    """All that the last commit of a move leaves in the file."""
    source = Source(path, Clock())
    await source.open()
    await source.run(lambda connection: fence.begin(connection, "nats://there"))
    await source.fence("it is moving")
    await source.run(lambda connection: fence.finish(connection, "it is at nats://there"))
    await source.close()


async def test_a_publisher_hears_where_the_events_are_also_when_something_delayed_falls_due(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(path)

    async def until_refused(broker: SqliteBroker) -> None:
        async with asyncio.timeout(30):
            while True:
                await broker.declare("order", ())  # writes nothing: it is the housekeeping that is refused
                await asyncio.sleep(0.01)

    async with at(f"sqlite:{path}?durable=no") as house:
        assert isinstance(house.broker, SqliteBroker)
        await move_away(path)
        monkeypatch.setattr(house.broker.clock, "now", lambda: time.time() + 7200.0)
        with pytest.raises(Moved, match="it is at nats://there"):
            await until_refused(house.broker)
        with pytest.raises(Moved, match="it is at nats://there"):
            await house.broker.publish([record(60)])


class Stock(msgspec.Struct):
    pieces: int


STOCK = Table("stock", Stock)


async def test_a_database_gets_the_rows_of_tables_too_also_when_killed_between_both_commits(
    path: Path, postgres: str
) -> None:
    left = await furnish(path)
    async with at(f"sqlite:{path}?durable=no") as house:
        tx, unit = house.store.begin(), house.store.unit()
        tx.put(STOCK, "sk\0u", Stock(7))
        assert house.store.finish(tx)
        unit.join([tx])
        unit.add(lambda connection: connection.execute("CREATE TABLE mine (id TEXT)"))
        await unit.commit()
    killed = await asyncio.to_thread(migrate, path, postgres, failpoint="carried_over:1=kill")
    assert killed.code == -signal.SIGKILL
    result = await asyncio.to_thread(migrate, path, postgres, "--json")
    assert (result.code, result.json["left"]) == (0, ["mine"])
    async with at(postgres) as there:
        assert await there.store.begin().get(STOCK, "sk\0u") == Stock(7)
    await moved_in(postgres, path, left)


async def test_rolled_back_the_app_goes_on_at_the_file_and_may_move_later(path: Path, valkey: str) -> None:
    left = await furnish(path)
    await asyncio.to_thread(migrate, path, valkey, failpoint="compared:1=kill")
    assert "is moving to" in await published(path, 60)
    result = await asyncio.to_thread(migrate, path, valkey, "--rollback", "--json")
    assert (result.code, result.json["rolled_back"]) == (0, valkey)
    assert not await published(path, 60)
    assert not [name for (name,) in rows(path, "SELECT name FROM sqlite_master") if "move" in str(name)]
    async with at(f"sqlite:{path}?durable=no") as house:
        for group, ids in left.items():
            assert in_order((await heard(house, group, len(ids) + 1)).ids, [*ids, "order-60"]), group
        await house.broker.publish([record(61)])
    assert (await asyncio.to_thread(migrate, path, valkey)).code == 0
    await moved_in(valkey, path, {group: ["order-61"] for group in GROUPS})


async def test_what_is_there_twice_is_not_done_again(path: Path, valkey: str) -> None:
    url, _, prefix = valkey.partition("?prefix=")
    left = await furnish(path)
    await asyncio.to_thread(migrate, path, valkey, failpoint="drained:1=kill")
    with redis.Redis.from_url(url) as server:  # it forgets which ids were published
        assert server.delete(f"{prefix}:{{order}}:ids", f"{prefix}:{{order}}:ids:old") == 1
    async with at(valkey) as there:
        await there.broker.publish([each for each in records(40) if each.topic == "order"])
    result = await asyncio.to_thread(migrate, path, valkey, "--json")
    assert (result.code, result.json["repeated"]) == (0, 40), result.err
    async with at(valkey, f"sqlite:{path}") as there:
        for group, ids in left.items():
            assert in_order((await heard(there, group, len(ids))).ids, ids), group


async def test_a_group_that_goes_back_while_it_moves_does_it_again_there(path: Path, valkey: str) -> None:
    await furnish(path)
    await asyncio.to_thread(migrate, path, valkey, failpoint="drained:1=kill")
    async with at(f"sqlite:{path}?durable=no") as house:
        await house.broker.seek("order", "shop.ship", AT + 50)
    assert (await asyncio.to_thread(migrate, path, valkey)).code == 0
    async with at(valkey, f"sqlite:{path}") as there:
        assert in_order((await heard(there, "shop.ship", 10)).ids, [f"order-{number}" for number in range(50, 60)])


async def test_what_was_altered_or_comes_in_another_order_does_not_move(path: Path, valkey: str) -> None:
    await furnish(path)
    await asyncio.to_thread(migrate, path, valkey, failpoint="drained:1=kill")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tidings_log SET body = x'00' WHERE id = 'order-22'")
    assert failed(await asyncio.to_thread(migrate, path, valkey), 1, "the body of event order-22", "Nothing has moved")
    assert not await published(path, 60)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE tidings_log SET body = ? WHERE id = 'order-22'", (record(22).value,))
        connection.execute("UPDATE tidings_log SET pos = -pos WHERE id = 'order-22'")
        connection.execute("UPDATE tidings_log SET pos = (SELECT max(pos) + 1 FROM tidings_log) WHERE pos < 0")
    assert failed(await asyncio.to_thread(migrate, path, valkey), 1, "the order of key 'k2'", "Nothing has moved")


async def test_what_does_not_arrive_is_missed(path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "PATIENCE", 1.0)
    await furnish(path)
    source = Source(path, Clock())
    await source.open()
    there = target(valkey, source)
    await there.connection.open()
    broker: Any = there.connection.broker
    publish = broker.link.publish

    async def lose_one(records: Sequence[Record]) -> None:
        await publish([each for each in records if each.id != "order-22"])

    monkeypatch.setattr(broker.link, "publish", lose_one)
    with pytest.raises(BrokerError, match="topic order has 59 of its 60 events there"):
        await Migration(source, there, "there", lambda count: None).run(5.0)
    await there.connection.close()
    await source.close()
    assert not await published(path, 60)


def refused(*given: str) -> str:
    result = tidings("migrate", *given)
    assert (result.code, "Traceback" in result.err) == (2, False)
    return result.err


def test_what_cannot_be_moved(path: Path, valkey: str) -> None:
    async def publish(url: str, records: Sequence[Record]) -> None:
        async with at(url) as house:
            await house.broker.publish(records)

    here = f"sqlite:{path}"
    asyncio.run(publish(here, records(2)))
    assert "There is no database at" in refused("sqlite:no.db", valkey)
    assert "is no database file" in refused(valkey, here)
    assert "events move to a server" in refused(here, here)
    assert "unknown scheme 'carrier'" in refused(here, "carrier://pigeon")
    assert "keeps no history" in refused(here, "amqp://localhost")
    assert "No move of" in refused(here, valkey, "--rollback")
    asyncio.run(publish(valkey, [Record("stock", b"foreign", None, "stock.low", "foreign", AT)]))
    assert "Topic stock at" in refused(here, valkey)
    assert "A move of" in refused(here, f"{valkey}elsewhere")
    with open(f"{path}.moving") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another move of" in refused(here, valkey)
