"""`tidings bridge`: two brokers are kept connected, and no event goes round."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from pathlib import Path

import pytest

from tests.cli.terminal import Result, failed, finish, tidings
from tests.moving.house import AT, at
from tests.servers.shared import require
from tidings.broker import Record, Start
from tidings.dev import RabbitMQ, Valkey
from tidings.moving.bridge import VIA, group_of, mark

NUMBERS = itertools.count(1)
ORDERS = ["--topic", "order"]
PATIENCE = 60.0


@pytest.fixture
def valkey(valkey_server: Valkey) -> str:
    return f"{valkey_server.url}?prefix=bridge{next(NUMBERS)}"


def bridge(source: str, target: str, *more: str, failpoint: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tidings", "bridge", source, target, "--from", "start", *more],
        env={**os.environ, **({"TIDINGS_FAILPOINT": failpoint} if failpoint else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@contextlib.contextmanager
def running(*bridges: "subprocess.Popen[bytes]") -> Generator[None]:
    try:
        yield
    finally:
        for process in bridges:
            process.kill()
            process.communicate()


async def stopped(process: "subprocess.Popen[bytes]") -> Result:
    process.send_signal(signal.SIGTERM)
    return await asyncio.to_thread(finish, process)


def some(name: str, count: int, topic: str = "order") -> list[Record]:
    headers = {"source": name}
    return [Record(topic, b"%d" % n, f"k{n % 3}", "order.made", f"{name}-{n}", AT + n, headers) for n in range(count)]


@contextlib.asynccontextmanager
async def seen(url: str, *topics: str) -> AsyncGenerator[Callable[[int], Awaitable[list[Record]]]]:
    """Wait until so many records have come."""
    async with at(url) as there:
        view = await there.broker.subscribe(topics or ["order"], None, Start.EARLIEST)
        found: list[Record] = []

        async def until(count: int) -> list[Record]:
            async with asyncio.timeout(PATIENCE):
                while len(found) < count:
                    found.extend(each.record for each in await view.fetch(100, 0.5))
            return found

        yield until


def keys_in_order(records: Sequence[Record], name: str, count: int) -> bool:
    """Whether these hold all of them once, those of a key in their order."""
    mine = [record.id for record in records if record.id.startswith(f"{name}-")]
    wanted = some(name, count)
    return sorted(mine) == sorted(record.id for record in wanted) and all(
        [id for id in mine if int(id.split("-")[1]) % 3 == key]
        == [record.id for record in wanted if record.key == f"k{key}"]
        for key in range(3)
    )


async def test_both_ways_each_event_is_at_both_ends_once(tmp_path: Path, valkey: str) -> None:
    house = f"sqlite:{tmp_path / 'tidings.db'}"
    async with seen(house) as here, seen(valkey) as there, at(house) as one, at(valkey) as other:
        await one.broker.publish(some("a", 20))
        await other.broker.publish(some("b", 20))
        to, back = bridge(house, valkey, *ORDERS, "--json"), bridge(valkey, house, *ORDERS, "--json")
        with running(to, back):
            for records in (await here(40), await there(40)):
                assert keys_in_order(records, "a", 20)
                assert keys_in_order(records, "b", 20)
            await one.broker.publish([Record("order", b"last", None, "order.made", "last-1", AT)])
            await other.broker.publish([Record("order", b"last", None, "order.made", "last-2", AT)])
            found = await here(42)
            assert len(await there(42)) == len(found) == 42
            went, came = (await stopped(to)).json, (await stopped(back)).json
            assert (went["carried"], came["carried"]) == (21, 21)
        assert {VIA in record.headers for record in found if record.id.startswith("b-")} == {True}
        assert not [record.headers for record in found if record.id.startswith("a-") and VIA in record.headers]


async def test_killed_it_goes_on_and_what_it_publishes_again_is_kept_once(tmp_path: Path, valkey: str) -> None:
    house = f"sqlite:{tmp_path / 'tidings.db'}"
    async with seen(valkey) as there, at(house) as one:
        await one.broker.publish(some("a", 20))
        killed = await asyncio.to_thread(finish, bridge(house, valkey, *ORDERS, failpoint="carried:1=kill"))
        assert killed.code == -signal.SIGKILL
        await one.broker.publish([Record("order", b"last", None, "order.made", "last-1", AT)])
        again = bridge(house, valkey, *ORDERS, "--json")
        with running(again):
            records = await there(21)
            assert keys_in_order(records, "a", 20)
            assert len(records) == 21
            assert (await stopped(again)).code == 0


async def test_topics_that_come_later_are_carried_from_their_start(tmp_path: Path, valkey: str) -> None:
    house = f"sqlite:{tmp_path / 'tidings.db'}"
    async with at(house) as one, at(valkey) as other:
        await one.broker.publish(some("a", 5))
        to, back = bridge(house, valkey, "--json"), bridge(valkey, house)
        with running(to, back):
            async with seen(valkey) as there, seen(house, "parcel") as here:
                await there(5)
                await one.broker.publish(some("b", 5, "stock"))
                await other.broker.publish(some("c", 5, "parcel"))
                assert keys_in_order(await here(5), "c", 5)
            async with seen(valkey, "stock") as there:
                assert keys_in_order(await there(5), "b", 5)
            assert (await stopped(to)).json["carried"] == 10
            await one.broker.publish(some("d", 5, "invoice"))
            again = bridge(house, valkey, "--from", "end")
            with running(again):
                async with seen(valkey, "invoice") as there:
                    assert keys_in_order(await there(5), "d", 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_stop_it_settles_what_it_has_carried(number: int, tmp_path: Path, valkey: str) -> None:
    house = f"sqlite:{tmp_path / 'tidings.db'}"
    async with at(house) as one:
        await one.broker.publish(some("a", 20))
        process = bridge(house, valkey, *ORDERS, failpoint="carried:1=stop")
        with running(process):
            await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            result = await asyncio.to_thread(finish, process)
        assert (result.code, result.err) == (0, "")
        assert result.out == "20 events carried over; 0 had been there before. The same command goes on from here.\n"
        assert (await one.broker.lag("order", group_of(mark(valkey)))).waiting == 0


async def test_told_to_stop_while_nobody_answers_it_ends_and_carries_the_rest_the_next_time(tmp_path: Path) -> None:
    house = f"sqlite:{tmp_path / 'tidings.db'}"
    require(Valkey)
    with Valkey() as server:
        async with at(house) as one, seen(server.url) as there:
            await one.broker.publish(some("a", 5))
            process = bridge(house, server.url)
            with running(process):
                await there(5)
                server.pause()
                await one.broker.publish(some("b", 5))
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGINT)
                result = await asyncio.to_thread(finish, process)
                server.resume()
            assert result.code in (0, 3), result.err
            assert "The same command goes on" in result.out
            assert "Traceback" not in result.err
            await one.broker.publish(some("c", 1))
            again = bridge(house, server.url)
            with running(again):
                assert keys_in_order(await there(11), "b", 5)
                assert (await stopped(again)).code == 0


async def test_a_server_that_comes_back_is_asked_again_which_topics_it_has(tmp_path: Path) -> None:
    house = f"sqlite:{tmp_path / 'tidings.db'}"
    require(Valkey)
    with Valkey() as server:
        process = bridge(server.url, house)
        with running(process):
            async with at(server.url) as one, seen(house) as here:
                await one.broker.publish(some("a", 5))
                await here(5)
            await asyncio.to_thread(server.restart)
            async with at(server.url) as one, seen(house, "stock") as here:
                await one.broker.publish(some("b", 5, "stock"))
                assert keys_in_order(await here(5), "b", 5)


async def test_who_cannot_tell_its_topics_has_to_be_told(rabbitmq_server: RabbitMQ, tmp_path: Path) -> None:
    result = await asyncio.to_thread(finish, bridge(rabbitmq_server.url, f"sqlite:{tmp_path / 'tidings.db'}"))
    assert failed(result, 2, "Name them with --topic", "--monitor")


def refused(*given: str) -> str:
    result = tidings("bridge", *given)
    assert (result.code, "Traceback" in result.err) == (2, False)
    return result.err


def test_what_cannot_be_connected(tmp_path: Path, valkey: str) -> None:
    assert "There is no database at" in refused("sqlite:no.db", valkey)
    assert "are both" in refused(valkey, valkey)
    assert "are both" in refused("sqlite:a.db", f"sqlite:{tmp_path / 'a.db'}")
    assert "unknown scheme" in refused("sqlite:a.db", "carrier://pigeon", "--topic", "order")
    assert "is no time" in refused("sqlite:a.db", valkey, "--from", "soon")
