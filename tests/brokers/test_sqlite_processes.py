"""Processes that share a group on one file, and what happens when one of them dies or is frozen."""

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.brokers.member import GROUP, TOPIC
from tidings.broker import Record
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database

ROOT = Path(__file__).parents[2]
KEYS = [f"k{index}" for index in range(16)]


class Process:
    """A member in a process of its own, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[list[str]] = []
        self.heard = asyncio.Event()
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().split())
            self.heard.set()

    async def until(self, word: str, count: int = 1) -> None:
        """Wait until it has said so."""
        async with asyncio.timeout(60):
            while sum(words[0] == word for words in self.said) < count:
                self.heard.clear()
                await self.heard.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()

    async def died(self) -> int:
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await self.listening
        return code

    @property
    def lent(self) -> dict[str, list[int]]:
        """The attempts of what it was lent."""
        attempts: dict[str, list[int]] = {}
        for word, *rest in self.said:
            if word == "lent":
                attempts.setdefault(rest[0], []).append(int(rest[1]))
        return attempts


class Site:
    """The file, a connection of ours, and the processes."""

    def __init__(self, broker: SqliteBroker, path: Path, stack: contextlib.AsyncExitStack) -> None:
        self.broker = broker
        self.path = path
        self._stack = stack

    async def start(self, *options: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.brokers.member", str(self.path), *options,
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        started = Process(process)
        self._stack.push_async_callback(self._end, started)
        await started.until("joined")
        return started

    async def _end(self, started: Process) -> None:
        if started.process.returncode is None:
            started.process.kill()
        await started.died()

    async def publish(self, count: int, prefix: str = "r") -> list[str]:
        records = [
            Record(TOPIC, b"", KEYS[index % 16], "t", f"{prefix}{index:03}", self.broker.clock.now())
            for index in range(count)
        ]
        await self.broker.publish(records)
        return [record.id for record in records]

    async def divided(self, count: int) -> None:
        """Until so many processes have parts."""
        async with asyncio.timeout(60):
            while self.broker.read("SELECT count(DISTINCT owner) FROM tidings_part") != [(count,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def settled(self, within: float = 60.0) -> None:
        async with asyncio.timeout(within):
            while (await self.broker.lag(TOPIC, GROUP)).waiting:  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.02)

    def effects(self) -> Counter[str]:
        return Counter(id for id, _ in self.broker.read("SELECT * FROM effects"))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    path = tmp_path / "tidings.db"
    broker = SqliteBroker(Database(path, durable=False), Clock())
    await broker.open()
    await broker.declare(TOPIC, [GROUP])
    await broker.run(lambda connection: connection.execute("CREATE TABLE effects (id TEXT, pid INTEGER)"))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(broker.close)
        yield Site(broker, path, stack)


async def test_the_other_goes_on_when_one_is_killed(site: Site) -> None:
    one, other = await site.start("--hold", "0.005"), await site.start("--hold", "0.005")
    published = await site.publish(300)
    await one.until("settled", 20)
    await other.until("settled", 20)
    one.send(signal.SIGKILL)
    assert await one.died() == -signal.SIGKILL
    published += await site.publish(32, "after")
    await site.settled()
    assert site.effects() == Counter(published), "each effect once"
    for id, attempts in other.lent.items():
        assert attempts == [2 if id in one.lent else 1], "an attempt is counted where it was lent, and only there"


async def test_what_a_killed_process_had_is_taken_over_in_a_second_or_two(site: Site) -> None:
    one = await site.start("--keeps", "10")
    await site.publish(10)
    await one.until("kept")
    other = await site.start()
    began = site.broker.clock.monotonic()
    one.send(signal.SIGKILL)
    await site.settled()
    assert site.broker.clock.monotonic() - began < 5.0, "not after a lease of 30 s"
    await other.until("settled", 10)
    assert other.lent == {id: [2] for id in one.lent}


async def test_a_record_that_kills_is_found_out_by_its_attempts(site: Site) -> None:
    published = await site.publish(20)
    poison = published[7]
    seen: list[int] = []
    for _ in range(4):
        process = await site.start("--dies-of", poison)
        assert await process.died() == -signal.SIGKILL
        seen += process.lent.get(poison, [])
        assert all(attempts[-1] <= 3 for id, attempts in process.lent.items() if id != poison), "the others soon go on"
    assert seen == [1, 2, 3, 4]
    last = await site.start()
    await site.settled()
    await last.until("settled")
    assert last.lent[poison] == [5]
    assert site.effects() == Counter(published)


async def test_who_was_frozen_beyond_its_lease_settles_nothing(site: Site) -> None:
    frozen = await site.start("--lease", "1.0", "--keeps", "10")
    published = await site.publish(10)
    await frozen.until("kept")
    other = await site.start("--lease", "1.0")
    frozen.send(signal.SIGSTOP)
    await frozen.go_on()
    await site.settled()
    frozen.send(signal.SIGCONT)
    await frozen.until("fenced")
    assert site.effects() == Counter(published), "each effect once"
    published += await site.publish(32, "after")
    await site.settled()
    assert site.effects() == Counter(published)
    assert set(other.lent) >= set(published[:10])


async def test_two_processes_divide_the_keys(site: Site) -> None:
    one, other = await site.start(), await site.start()
    await site.divided(2)
    published = [*await site.publish(16), *await site.publish(160, "s")]
    await site.settled()
    assert site.effects() == Counter(published)
    assert one.lent
    assert other.lent
    assert not one.lent.keys() & other.lent.keys()
