"""What dies and comes back on NATS: members, the server, connections, streams."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import nats
import pytest

from tests.brokers.links import GROUP, by_key, ids, own, publish_all, records, taken
from tests.brokers.test_nats import opened
from tidings.broker import Delivery, Record, Start
from tidings.clock import Clock
from tidings.dev import Nats
from tidings.errors import BrokerError, Fenced, PublishFailed, Unreachable
from tidings.jetstream import address, wire
from tidings.jetstream.connection import Connection
from tidings.jetstream.cursor import Cursor, State
from tidings.jetstream.naming import topic
from tidings.jetstream.part import Part
from tidings.jetstream.server import gone
from tidings.jetstream.wire import Answer
from tidings.link import Line

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nats]:
    """One that may be killed."""
    with Nats(tmp_path / "nats") as server:
        yield server


class Process:
    """A member in a process of its own."""

    def __init__(self, url: str, *options: str) -> None:
        command = [sys.executable, "-m", "tests.brokers.nats_member", url, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True, bufsize=1
        )

    async def says(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        while True:
            line = (await asyncio.to_thread(self.process.stdout.readline)).split()
            assert line, f"it ended without {word}"
            if line[0] == word:
                return line

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.asynccontextmanager
async def member(url: str, *options: str) -> AsyncIterator[Process]:
    process = Process(url, *options)
    try:
        yield process
    finally:
        process.kill()


async def fetch_on(line: Line) -> None:
    async with asyncio.timeout(60):
        while True:
            await line.fetch(4, 1.0)


async def settled(line: Line, until: int) -> list[Delivery]:
    """All that is lent and done until so many different ones are, whatever happens to the server."""
    found: dict[str, Delivery] = {}
    async with asyncio.timeout(40):
        while len(found) < until:
            try:
                lent = await line.fetch(50, 0.5)
            except BrokerError:
                await asyncio.sleep(0.05)
                continue
            while True:
                try:
                    await line.done(lent)
                except Fenced:
                    break
                except BrokerError:
                    await asyncio.sleep(0.05)
                    continue
                found |= {each.record.id: each for each in lent if each.record.id not in found}
                break
    return list(found.values())


@pytest.mark.crash
async def test_an_attempt_is_counted_for_each_process_that_a_record_kills(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix) as link:
        await link.declare("order", [GROUP])
        await link.publish(records(3, keys=1))
        url = f"{nats_server.url}?prefix={prefix}"
        for attempt in (1, 2, 3):
            async with member(url, "--dies-of", "id1") as process:
                if attempt == 1:
                    assert await process.says("lent") == ["lent", "id0", "1"]
                assert await process.says("lent") == ["lent", "id1", str(attempt)]
                assert await asyncio.to_thread(process.process.wait) == 9
        got = await taken(await link.join(["order"], GROUP), 2)
        assert [(each.record.id, each.attempt) for each in got] == [("id1", 4), ("id2", 1)]


@pytest.mark.crash
async def test_who_stood_still_for_longer_than_its_lease_is_fenced(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix, lease=2.0) as link:
        await link.declare("order", [GROUP])
        await link.publish(records(10, keys=1))
        async with member(f"{nats_server.url}?prefix={prefix}", "--keeps", "10") as process:
            assert await process.says("kept") == ["kept", "10"]
            process.process.send_signal(signal.SIGSTOP)
            line = await link.join(["order"], GROUP)
            got = await taken(line, 10)
            assert [(each.record.id, each.attempt) for each in got] == [(f"id{n}", 2) for n in range(10)]
            process.process.send_signal(signal.SIGCONT)
            assert process.process.stdin is not None
            process.process.stdin.write("\n")
            assert await process.says("fenced")
            await line.done(got)
        assert (await link.lag("order", GROUP)).waiting == 0


@pytest.mark.parametrize("how", ["stop", "kill9"])
async def test_a_server_that_comes_back_has_lost_nothing(server: Nats, how: str) -> None:
    async with opened(server, "own") as link:
        line = await link.join(["order"], GROUP)
        wanted = records(1200, keys=20)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(settled(line, 1200))
            for start in range(0, 1200, 100):
                if start in (400, 800):
                    await asyncio.to_thread(getattr(server, how))
                    tasks.create_task(asyncio.to_thread(server.start))
                await publish_all(link, wanted[start : start + 100])
        assert by_key(reading.result()) == {f"k{n}": [r.id for r in wanted if r.key == f"k{n}"] for n in range(20)}
        assert {each.attempt for each in reading.result()} == {1}
        assert (await link.lag("order", GROUP)).waiting == 0


async def test_nothing_is_written_to_a_connection_that_has_failed(
    nats_server: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    wired = wire.Wire(lambda: None)
    await wired.dial(nats_server.url)
    wired.post(b"PING\r\n")
    cast(Any, wired)._transport._io_writer.transport.abort()
    for _ in range(20):  # before the client has heard of it
        wired.post(b"PING\r\n")
    await wired.hang_up()
    assert not caplog.records


async def test_while_the_server_is_away_all_is_told_and_few_connections_are_tried(server: Nats) -> None:
    async with opened(server, "own") as link:
        line = await link.join(["order"], GROUP)
        await link.publish(records(3))
        server.stop()
        tries = 0

        def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            tries += 1
            writer.close()

        async with await asyncio.start_server(count, "127.0.0.1", server.port):
            with pytest.raises(PublishFailed) as failed:
                await link.publish(records(3, start=3))
            assert failed.value.unsent == ("id3", "id4", "id5")
            with pytest.raises(BrokerError, match="NATS"):
                await fetch_on(line)
            await asyncio.sleep(2.0)
        assert 1 <= tries <= 5
        server.start()
        await publish_all(link, records(3, start=3))
        assert sorted(ids(await settled(line, 6))) == [f"id{n}" for n in range(6)]


async def test_a_connection_that_is_silent_is_given_up(server: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEARTBEAT", 0.3)
    async with opened(server, "own") as link:
        line = await link.join(["order"], GROUP)
        noticed = asyncio.Event()
        monkeypatch.setattr(line, "changed", noticed.set)
        server.pause()
        try:
            async with asyncio.timeout(60):
                await noticed.wait()
        finally:
            monkeypatch.undo()
            server.resume()
        await publish_all(link, records(5))
        assert len(await settled(line, 5)) == 5


async def test_a_stream_that_was_deleted_is_made_again_and_read_from_its_beginning(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix) as link:
        line, view = await link.join(["order"], GROUP), await link.join(["order"], None)
        await link.publish(records(20))
        await line.done(await taken(line, 20))
        await taken(view, 20)
        plain = await nats.connect(nats_server.url)
        await plain.jetstream().delete_stream(f"{prefix}_order")
        await plain.close()
        await publish_all(link, records(5, start=20))
        assert sorted(ids(await settled(line, 5))) == [f"id{n}" for n in range(20, 25)]
        assert ids(await settled(view, 5)) == [f"id{n}" for n in range(20, 25)]


async def test_state_that_was_deleted_is_an_error_and_not_silence(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix, lease=0.6) as link:
        line = await link.join(["order"], GROUP)
        plain = await nats.connect(nats_server.url)
        await plain.jetstream().delete_stream(f"KV_{prefix}")
        await plain.close()
        with pytest.raises(BrokerError):
            await fetch_on(line)
        with pytest.raises(Unreachable):  # as of a server that begins or ends: who starts just now waits for it
            await link.join(["order"], GROUP)


async def test_a_fetch_that_is_cancelled_loses_nothing_and_is_no_attempt(nats_server: Nats) -> None:
    async with opened(nats_server, own()) as link:
        line = await link.join(["order"], GROUP)
        await link.publish(records(50))
        for turns in range(12):
            fetching = asyncio.create_task(line.fetch(50, 1.0))
            for _ in range(turns):
                await asyncio.sleep(0)
            fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await line.done(await fetching)
        await line.close()
        line = await link.join(["order"], GROUP)
        left = (await link.lag("order", GROUP)).waiting
        assert left is not None
        got = await taken(line, left)
        assert {each.attempt for each in got} <= {1}
        assert by_key(got) == {
            key: [f"id{n}" for n in range(50) if f"k{n % 5}" == key][-len(those) :]
            for key, those in by_key(got).items()
        }


async def test_a_part_that_is_not_settled_in_time_is_handed_over_and_its_member_fenced(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix, lease=1.0) as one, opened(nats_server, prefix, lease=1.0) as other:
        first = await one.join(["order"], GROUP)
        await one.publish(records(40, keys=40))
        held = await taken(first, 40)
        second = await other.join(["order"], GROUP)
        with pytest.raises(Fenced):
            await taken(first, 1)
        await first.done(held)
        seen: dict[str, int] = {}
        async with asyncio.timeout(60):
            while len(seen) < 40:
                for line in (first, second):
                    lent = await line.fetch(100, 0.1)
                    await line.done(lent)
                    assert not seen.keys() & set(ids(lent))
                    seen |= {each.record.id: each.attempt for each in lent}
        assert set(seen.values()) == {1}


async def test_a_view_begins_at_the_time_of_records(nats_server: Nats) -> None:
    async with opened(nats_server, own()) as link:
        times = [Record("order", b"", "k", "t", f"id{n}", 1000.0 + n) for n in range(30)]
        await link.publish(times)
        view = await link.join(["order"], None, 1010.5)
        assert ids(await taken(view, 19)) == [f"id{n}" for n in range(11, 30)]
        late = await link.join(["order"], None, 5000.0)
        assert await late.fetch(1, 0.1) == []
        assert ids(await taken(await link.join(["order"], None, Start.EARLIEST), 30))[0] == "id0"


async def test_what_a_server_does_not_find_is_gone_only_where_the_stream_says_so(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix) as link:
        await link.publish(records(3))
        plain = await nats.connect(nats_server.url)
        await plain.jetstream().delete_msg(f"{prefix}_order", 2)
        await plain.close()
        connection = Connection(address.parse(nats_server.url), Clock())
        await connection.open()
        line, where = connection.wire(), topic(prefix, "order", 8)
        part = Part(where, 0, b"$KV.x.y", Cursor(State(read=3, back=[1, 2]), 0))
        part.questions(line, Clock(), news=lambda: None, ended=lambda: None)
        none = Answer(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")  # so says one that is about to end
        told = [Answer(b"", b"{}"), none, none]
        assert part.unfound(told) == [1, 2]
        with pytest.raises(BrokerError, match="message 1"):
            part.begin(told, await gone(line, where.stream, [1, 2]))
        assert 1 in part.cursor.back
        part.close()
        await connection.close()
