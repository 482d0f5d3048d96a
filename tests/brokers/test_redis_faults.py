"""Redis when something dies, stops or goes away: members, connections and the server itself."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from tests.brokers.links import GROUP, by_key, ids, own, publish_all, records, taken, until
from tests.brokers.redis_links import opened
from tests.servers.shared import require
from tidings.broker import Delivery, Record, Start
from tidings.brokers.redis import RedisLink
from tidings.dev import Valkey
from tidings.errors import BrokerError, Fenced, PublishFailed
from tidings.link import Line

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Valkey]:
    """One that may be killed."""
    require(Valkey)
    with Valkey(tmp_path / "valkey") as server:
        yield server


@contextlib.asynccontextmanager
async def member(server: Valkey, prefix: str, *options: str) -> AsyncIterator[Process]:
    words = ("-m", "tests.brokers.redis_member", f"{server.url}?prefix={prefix}", *options)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=PIPE, cwd=Path(__file__).parents[2]
    )  # fmt: skip
    try:
        await line_of(process, "joined")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line_of(process: Process, *wanted: str) -> list[str]:
    """What it says, up to a line that begins with these words."""
    said: list[str] = []
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while line := (await process.stdout.readline()).decode():
            said.append(line.strip())
            if line.split()[: len(wanted)] == [*wanted]:
                return said
    raise AssertionError(f"it ended without saying {wanted}: {said}")


async def test_what_kills_its_member_comes_with_its_attempt_and_the_order_is_kept(valkey_server: Valkey) -> None:
    prefix = own()
    async with opened(valkey_server, prefix, lease=1.0) as link:
        await link.declare("order", [GROUP])
        await link.publish(records(30, keys=3))
        attempts: list[int] = []
        seen: dict[str, list[str]] = defaultdict(list)
        for _ in range(3):
            async with member(valkey_server, prefix, "--dies-of", "id7") as process:
                for line in await line_of(process, "lent", "id7"):
                    word, id, *rest = line.split()
                    if word == "done":
                        seen[f"k{int(id[2:]) % 3}"].append(id)
                    elif id == "id7":
                        attempts.append(int(rest[1]))
                assert await process.wait() == 9
        assert attempts == [1, 2, 3]
        heir = await link.join(["order"], GROUP)
        got = []
        while len(got) < 30 - sum(map(len, seen.values())):
            some = await taken(heir, 1, 30)
            await heir.done(some)
            got += some
        assert {each.record.id: each.attempt for each in got}["id7"] == 4
        for each in got:
            seen[str(each.record.key)].append(each.record.id)
        assert seen == {f"k{key}": [f"id{n}" for n in range(key, 30, 3)] for key in range(3)}


async def test_a_member_that_stood_still_does_not_settle_what_another_has(valkey_server: Valkey) -> None:
    prefix = own()
    async with (
        opened(valkey_server, prefix, lease=1.0) as link,
        member(valkey_server, prefix, "--hold", "0.4") as first,
    ):
        await link.publish(records(8, keys=1))
        await line_of(first, "lent", "id2")
        first.send_signal(signal.SIGSTOP)
        heir = await link.join(["order"], GROUP)
        got = await taken(heir, 6, 30)
        assert ids(got) == [f"id{n}" for n in range(2, 8)]
        assert (got[0].attempt, got[-1].attempt) == (2, 2)
        first.send_signal(signal.SIGCONT)
        said = await line_of(first, "trouble", "Fenced")
        assert not any(line.startswith("done") for line in said), said
        assert (await link.lag("order", GROUP)).waiting == 6
        await heir.done(got)
        assert (await link.lag("order", GROUP)).waiting == 0


async def work(link: RedisLink, seen: list[str], count: int) -> None:
    """Take and settle until so many different ones were seen, through all that happens."""
    line = await link.join(["order"], GROUP)
    while len(set(seen)) < count:
        try:
            got = await line.fetch(100, 0.5)
            seen += ids(got)
            await settle(line, got)
        except BrokerError:
            await asyncio.sleep(0.1)


async def settle(line: Line, got: Sequence[Delivery]) -> None:
    while True:
        try:
            return await line.done(got)
        except Fenced:
            raise
        except BrokerError:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_nothing_is_lost_when_the_server_dies_under_load(own_server: Valkey, how: str) -> None:
    async with opened(own_server, "p", lease=5.0) as sender, opened(own_server, "p", lease=5.0) as receiver:
        await receiver.declare("order", [GROUP])
        seen: list[str] = []

        async def send(number: int) -> None:
            each = [Record("order", b"x", f"k{number}", "t", f"{number}-{n}") for n in range(40)]
            for first in range(0, 40, 4):
                await publish_all(sender, each[first : first + 4])

        async def trouble() -> None:
            for share in (3, 2):
                await until(lambda share=share: len(set(seen)) >= 1000 // share, 60)
                await asyncio.to_thread(own_server.kill9 if how == "kill" else own_server.stop)
                await asyncio.to_thread(own_server.start)

        async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
            tasks.create_task(work(receiver, seen, 1000))
            tasks.create_task(trouble())
            for number in range(25):
                tasks.create_task(send(number))
        await until(lambda: sender._connection._wire is not None)
        view = await sender.join(["order"], None, Start.EARLIEST)
        kept = await taken(view, 1000)
        assert await view.fetch(10, 0.2) == []
        for number in range(25):
            assert by_key(kept)[f"k{number}"] == [f"{number}-{n}" for n in range(40)]


async def test_a_server_that_stands_still_is_noticed_and_found_again(own_server: Valkey) -> None:
    async with opened(own_server, "p") as link:
        line = await link.join(["order"], GROUP)
        await asyncio.to_thread(own_server.pause)
        with pytest.raises(PublishFailed) as caught:
            await link.publish(records(1))
        assert caught.value.unsent == ("id0",)
        with pytest.raises(BrokerError):
            await taken_once(line)
        await asyncio.to_thread(own_server.resume)
        await publish_all(link, records(3))
        assert sorted(ids(await taken(line, 3))) == ["id0", "id1", "id2"]


async def taken_once(line: Line) -> None:
    async with asyncio.timeout(30):
        while not await line.fetch(1, 1.0):
            pass


async def test_while_the_server_is_away_it_is_tried_twice_a_second_at_most(own_server: Valkey) -> None:
    attempts: list[float] = []
    async with opened(own_server, "p") as link:
        line = await link.join(["order"], GROUP)
        await asyncio.to_thread(own_server.stop)
        loop = asyncio.get_running_loop()

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            attempts.append(loop.time())
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", own_server.port):
            begun = loop.time()
            while loop.time() < begun + 4.0:
                with contextlib.suppress(BrokerError):
                    await line.fetch(1, 0.5)
                await asyncio.sleep(0.1)
        assert 2 <= len(attempts) <= 9
        await asyncio.to_thread(own_server.start)
        await publish_all(link, records(5))
        assert len(await taken(line, 5)) == 5


async def test_fifty_cut_connections_lose_nothing(valkey_server: Valkey) -> None:
    prefix = own()
    async with opened(valkey_server, prefix) as link, opened(valkey_server, prefix) as other:
        line = await link.join(["order"], GROUP)
        published = records(500)
        found: list[str] = []

        async def cut() -> None:
            for _ in range(50):
                for connection in (link._connection, link._writer):
                    if connection._wire is not None:
                        connection._wire.drop("cut")
                if line._ears._wire is not None:  # type: ignore[attr-defined]
                    line._ears._wire.drop("cut")  # type: ignore[attr-defined]
                await asyncio.sleep(0.06)

        async def send() -> None:
            for first in range(0, 500, 10):
                await publish_all(other, published[first : first + 10])

        async def receive() -> None:
            while len(set(found)) < 500:
                try:
                    got = await line.fetch(50, 0.5)
                    found.extend(ids(got))
                    await settle(line, got)
                except BrokerError:
                    await asyncio.sleep(0.05)

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for each in (cut(), send(), receive()):
                tasks.create_task(each)
        assert sorted(set(found)) == sorted(each.id for each in published)
        assert (await other.lag("order", GROUP)).waiting == 0
