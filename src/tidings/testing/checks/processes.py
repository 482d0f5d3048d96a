"""Members in processes of their own, which die as processes do."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable

from tidings.broker import Feature, Record
from tidings.testing.checks.member import DEAD, Task
from tidings.testing.checks.members import KEYS
from tidings.testing.checks.server import GROUP, TOPIC, Server, check, drain, expect, ids, nothing, numbered, record

PATIENCE = 60.0
"""Real seconds: a process takes some of them to start, and a dead one its lease."""


class Member:
    """A process, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._listener = asyncio.create_task(self._listen())
        self.lent: dict[str, int] = {}
        """The ids of what it was lent, with the attempt of each."""
        self.settled: list[str] = []
        self.joined = False

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            match line.decode().split():
                case ["joined"]:
                    self.joined = True
                case ["lent", id, attempt]:
                    self.lent[id] = int(attempt)
                case ["settled", id]:
                    self.settled.append(id)
                case _:  # trouble, which passes
                    pass

    async def ended(self) -> int:
        """Its exit code, once it has ended and all that it said is known."""
        async with asyncio.timeout(PATIENCE):
            await self._listener
            return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.ended()


@contextlib.asynccontextmanager
async def member(server: Server, *, deadly: str = "", keeps: bool = False) -> AsyncGenerator[Member]:
    """A process that has joined the group; it is killed at the end of the block."""
    assert server.config is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidings.testing.checks.member",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(Task(server.config, deadly, keeps).line())
    told = Member(process)
    try:
        await until(lambda: told.joined or process.returncode is not None)
        yield told
    finally:
        await told.kill()
        process.stdin.close()


async def until(true: Callable[[], object]) -> None:
    """Wait for it."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - other processes make it true
            await asyncio.sleep(0.02)


@check(Feature.ORDERED, wants="config")
async def processes_share_by_key(server: Server) -> None:
    """Two processes are one group: each record comes to one of them, a key in order, and neither goes away empty."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        async with member(server) as one, member(server) as two:
            members = (one, two)
            published: list[Record] = []
            while not all(each.settled for each in members):
                batch = numbered(24, keys=KEYS, prefix=f"b{len(published):04}-")
                await broker.publish(batch)
                published += batch
                await until(lambda: sum(len(each.settled) for each in members) >= len(published))  # noqa: B023 - now
        settled = [id for each in members for id in each.settled]
        expect(sorted(settled), ids(published), "what was settled")
        keys = {each.id: each.key for each in published}
        for key in KEYS:
            for each in members:
                mine = [id for id in each.settled if keys[id] == key]
                expect(mine, sorted(mine), f"the order of {key}")


@check(Feature.ORDERED, wants="config")
async def what_a_killed_process_had_comes_to_another(server: Server) -> None:
    """SIGKILL: not lost, with its attempt counted, before what was published later of its key."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        async with member(server, keeps=True) as one:
            await broker.publish([record("a1", "a"), record("b1", "b"), record("a2", "a")])
            await until(lambda: len(one.lent) == 3)
            await one.kill()
        await broker.publish([record("a3", "a"), record("b2", "b")])
        group = await broker.subscribe([TOPIC], GROUP)
        taken = await drain(group, 5)
        for key, wanted in (("a", ["a1", "a2", "a3"]), ("b", ["b1", "b2"])):
            expect(ids([each for each in taken if each.record.key == key]), wanted, f"the order of {key}")
        attempts = {each.record.id: each.attempt for each in taken}
        late = [attempts.pop("a3"), attempts.pop("b2")]  # a server that pushes may not have seen the death yet
        expect(attempts, {"a1": 2, "b1": 2, "a2": 2}, "the attempts of what it had")
        expect(set(late) <= {1, 2}, True, f"the attempts of what came later: {late}")
        await nothing(group, "something came twice")


@check(Feature.ORDERED, wants="config")
async def a_record_that_ends_its_process_is_counted(server: Server) -> None:
    """Poison by exit: each death is one more attempt; what came beside it is neither lost nor handled twice."""
    others = numbered(20, keys=KEYS)
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        await broker.publish([*others[:10], record("deadly", "k3"), *others[10:]])
        settled: list[str] = []
        for attempt in (1, 2):
            async with member(server, deadly="deadly") as one:
                expect(await one.ended(), DEAD, "how the process ended")
            expect(one.lent["deadly"], attempt, "the attempt of what ends processes")
            settled += one.settled
        group = await broker.subscribe([TOPIC], GROUP)
        left = await drain(group, 21 - len(settled))
        expect(sorted([*settled, *ids(left)]), sorted(["deadly", *ids(others)]), "what was handled")
        expect([each.attempt for each in left if each.record.id == "deadly"], [3], "the attempt at last")
