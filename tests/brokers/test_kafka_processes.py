"""Members of a group on Kafka in processes of their own, which are killed and frozen; and a broker that is killed."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator

import pytest

from tests.brokers.kafka_member import GROUP, TOPIC
from tests.brokers.test_kafka import Place, ids, records, take
from tidings.broker import Delivery, Lag, Record
from tidings.dev import Kafka
from tidings.errors import PublishFailed

LEASE = 2.0
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place(kafka_server: Kafka) -> Place:
    return Place(kafka_server)


class Process:
    """A member that was started, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, place: Place, *options: str) -> "Process":
        command = ["-m", "tests.brokers.kafka_member", place.url, f"--lease={LEASE}", *options]
        made = cls(await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE))
        await made.until("joined")
        return made

    async def until(self, word: str) -> list[str]:
        """The words of the next line that begins with this one."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self.process.stdout.readline():
                words = line.decode().split()
                if words[0] == word:
                    return words
        raise AssertionError(f"it ended without saying {word!r}")

    async def lent(self, count: int) -> dict[str, int]:
        return {words[1]: int(words[2]) for words in [await self.until("lent") for _ in range(count)]}

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@pytest.fixture
async def ended() -> AsyncGenerator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        await process.end()


async def test_a_record_that_kills_comes_with_each_death_counted(place: Place, ended: list[Process]) -> None:
    async with place.link(lease=LEASE) as link:
        await link.declare(TOPIC, [GROUP])
        await link.publish([Record(TOPIC, b"", "k", "t", id) for id in ("before", "poison", "after")])
        for death in range(1, 4):
            member = await Process.start(place, "--dies-of=poison")
            ended.append(member)
            while (words := await member.until("lent"))[1] != "poison":
                pass
            assert int(words[2]) == death
            await member.process.wait()
        got: list[Delivery] = await take(await link.join([TOPIC], GROUP), 2 if "before" not in words else 3)
        assert {each.record.id: each.attempt for each in got}["poison"] == 4
        assert ids(got)[-2:] == ["poison", "after"]


async def test_what_a_killed_member_had_out_counts_and_nothing_else(place: Place, ended: list[Process]) -> None:
    async with place.link(lease=LEASE) as link:
        await link.declare(TOPIC, [GROUP])
        await link.publish(records(20))
        member = await Process.start(place, "--keeps")
        ended.append(member)
        held = await member.lent(20)
        assert set(held.values()) == {1}
        member.process.kill()
        await link.publish(records(20, prefix="s"))
        got = await take(await link.join([TOPIC], GROUP), 40)
        assert {each.record.id: each.attempt for each in got} == dict.fromkeys(held, 2) | {
            f"s{number}": 1 for number in range(20)
        }
        for key in {each.record.key for each in got}:
            assert [id[0] for id in ids([each for each in got if each.record.key == key])] == sorted(
                id[0] for id in ids([each for each in got if each.record.key == key])
            )
        assert await link.lag(TOPIC, GROUP) == Lag(0, None)


async def test_who_was_frozen_is_told_once_that_it_lost_all(place: Place, ended: list[Process]) -> None:
    async with place.link(lease=LEASE) as link:
        await link.declare(TOPIC, [GROUP])
        await link.publish(records(10))
        member = await Process.start(place, "--keeps")
        ended.append(member)
        held = await member.lent(10)
        member.process.send_signal(signal.SIGSTOP)
        line = await link.join([TOPIC], GROUP)
        got = await take(line, 10)
        assert {each.record.id: each.attempt for each in got} == dict.fromkeys(held, 2)
        member.process.send_signal(signal.SIGCONT)
        assert await member.until("fenced") == ["fenced"]
        assert await link.lag(TOPIC, GROUP) == Lag(0, None)


async def test_nothing_acknowledged_is_lost_when_the_broker_is_killed(place: Place, kafka_server: Kafka) -> None:
    async with place.link(lease=10.0) as link:
        line = await link.join([TOPIC], GROUP)
        acknowledged: set[str] = set()

        async def publish(number: int) -> None:
            wanted = records(50, prefix=f"{number}-")
            while wanted:
                try:
                    await link.publish(wanted)
                    acknowledged.update(each.id for each in wanted)
                    return
                except PublishFailed as error:
                    wanted = [each for each in wanted if each.id in error.unsent]
                    await asyncio.sleep(0.1)

        await publish(0)
        loop = asyncio.get_running_loop()
        killing = loop.run_in_executor(None, kafka_server.kill9)
        async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
            for number in range(1, 11):
                tasks.create_task(publish(number))
            await killing
            await loop.run_in_executor(None, kafka_server.start)
        assert len(acknowledged) == 550
        seen: set[str] = set()
        async with asyncio.timeout(60):
            while not seen >= acknowledged:
                seen.update(ids(await take(line, 1)))
        assert (await link.lag(TOPIC, GROUP)).waiting == 0
