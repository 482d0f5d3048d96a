"""The server goes away, or what it holds does, and so do the connections to it: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from tidings.broker import Broker, Record, Subscription
from tidings.errors import BrokerError
from tidings.testing.checks.members import KEYS
from tidings.testing.checks.server import (
    GROUP,
    PAUSE,
    TOPIC,
    Server,
    acknowledged,
    check,
    expect,
    ids,
    numbered,
    record,
    take,
)

PUBLISHERS = 100
CUTS, WITHIN = 50, 3.0
HEALED = 100.0
"""Real seconds in which all has to be as before: a server may take some of them to start."""
COMES = 3.0
"""Real seconds for records that nothing keeps from coming, on a slow machine."""


class Reader:
    """Takes and settles what comes to a member, through all that goes wrong."""

    def __init__(self, member: Subscription) -> None:
        self._member = member
        self.seen: dict[str, str | None] = {}
        """The keys of the records that came, by their ids, in the order in which they first came."""

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncGenerator[None]:
        """Meanwhile. Raises what is no BrokerError."""
        task = asyncio.create_task(self._read())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _read(self) -> None:
        while True:
            try:
                lent = await self._member.fetch(100, 1.0)
                self.seen |= {each.record.id: each.record.key for each in lent if each.record.id not in self.seen}
                await self._member.ack(lent)
            except BrokerError:  # the server is away, or what was lent comes again
                await asyncio.sleep(PAUSE)

    async def until(self, wanted: Sequence[Record], seconds: float = HEALED) -> bool:
        """Whether all of these have come in so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(each.id not in self.seen for each in wanted):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(PAUSE / 2)
                return True
        return False


async def publish(broker: Broker, records: Sequence[Record]) -> None:
    """Until they are acknowledged, however often it takes."""
    while True:
        try:
            await broker.publish(records)
        except BrokerError:
            await asyncio.sleep(PAUSE)
        else:
            return


async def _publish_beside(broker: Broker, records: Sequence[Record], after: Callable[[int], Awaitable[None]]) -> None:
    """A hundred publishers, a key each; `after` is told how many are acknowledged."""
    kept = 0

    async def one(mine: Sequence[Record]) -> None:
        nonlocal kept
        for each in mine:
            await publish(broker, [each])
            kept += 1
            await after(kept)

    async with asyncio.TaskGroup() as tasks:
        for number in range(PUBLISHERS):
            tasks.create_task(one(records[number::PUBLISHERS]))


async def _settled(broker: Broker) -> None:
    """Until the group has nothing left to do, as the server has it."""
    async with asyncio.timeout(HEALED):
        while True:
            with contextlib.suppress(BrokerError):
                if (await broker.lag(TOPIC, GROUP)).waiting == 0:
                    return
            await asyncio.sleep(PAUSE)


async def _through(server: Server, blow: Callable[[], Awaitable[None]]) -> None:
    """Publish and read, with a blow at a third and at a half of it."""
    published = numbered(server.many, keys=[f"k{number}" for number in range(PUBLISHERS)])
    at = {server.many // 3, server.many // 2}
    one_at_a_time = asyncio.Lock()

    async def after(kept: int) -> None:
        if kept in at:
            async with one_at_a_time:
                await blow()

    async with server.connect() as one, server.connect() as other:
        reader = Reader(await other.subscribe([TOPIC], GROUP))
        async with reader.reading():
            async with asyncio.timeout(2 * HEALED):
                await _publish_beside(one, published, after)
            await reader.until(published)
            expect(sorted({each.id for each in published} - reader.seen.keys()), [], "what is missing")
            for number in range(PUBLISHERS):
                mine = [id for id, key in reader.seen.items() if key == f"k{number}"]
                expect(mine, ids(published[number::PUBLISHERS]), f"the order of k{number}")
            await _settled(one)


@check(wants="restart")
async def a_restart_of_the_server_loses_nothing(server: Server) -> None:
    """At a third and at half of what a hundred publishers tell: all is kept, comes, and comes in the order of keys."""
    assert server.restart is not None
    await _through(server, server.restart)


@check(wants="kill")
async def a_server_that_is_killed_loses_nothing(server: Server) -> None:
    """SIGKILL at a third and at half of what a hundred publishers tell: what is acknowledged comes, in order."""
    assert server.kill is not None
    await _through(server, server.kill)


@check(wants="cut")
async def fifty_cuts_in_three_seconds_lose_nothing(server: Server) -> None:
    """Every connection is cut again as soon as it is there, under publishers and a member; then all goes on."""
    assert server.cut is not None
    published = numbered(300, keys=KEYS)
    async with server.connect() as one, server.connect() as other:
        reader = Reader(await other.subscribe([TOPIC], GROUP))
        async with reader.reading(), asyncio.timeout(2 * HEALED):
            telling = [asyncio.create_task(_tell(one, published[turn::12])) for turn in range(12)]
            for _ in range(CUTS):
                await server.cut()
                await asyncio.sleep(WITHIN / CUTS)
            await asyncio.gather(*telling)
            await reader.until(published)
            expect(sorted({each.id for each in published} - reader.seen.keys()), [], "what is missing")
            for key in KEYS:
                mine = [id for id, of in reader.seen.items() if of == key]
                expect(mine, [each.id for each in published if each.key == key], f"the order of {key}")
            await _settled(one)


async def _tell(broker: Broker, records: Sequence[Record]) -> None:
    for each in records:
        await publish(broker, [each])
        await asyncio.sleep(WITHIN / len(records))


@check(wants="cut")
async def what_was_lent_before_a_cut_is_settled_or_comes_again(server: Server) -> None:
    """An acknowledgement after a reconnect holds, or raises; neither disturbs other keys, groups or connections."""
    assert server.cut is not None
    async with server.connect() as one, server.connect() as other:
        group = await one.subscribe([TOPIC], GROUP)
        beside = Reader(await other.subscribe([TOPIC], "g.beside"))
        published = numbered(6, keys=KEYS[:6])
        await one.publish(published)
        held = await take(group, 6)
        await server.cut()
        settled: set[str] = set()
        async with beside.reading():
            for each in (*held, *held[:3]):  # a second time is harmless
                if await acknowledged(group, each):
                    settled.add(each.record.id)
            again = Reader(group)
            async with again.reading():
                await _settled(other)
                await publish(other, [record("last", "k0")])
                expect(await again.until([record("last")]), True, "whether what came later came")
            expect(sorted(settled & again.seen.keys()), [], "what was acknowledged and came again")
            expect(await beside.until(published), True, "whether the other group got all")


@check(wants="remove")
async def what_is_deleted_under_load_begins_anew(server: Server) -> None:
    """Stream or queue is deleted under publishers and a member: all go on by themselves, and what is new comes."""
    assert server.remove is not None
    async with server.connect() as one, server.connect() as other:
        reader = Reader(await other.subscribe([TOPIC], GROUP))
        async with reader.reading(), asyncio.timeout(HEALED):
            await publish(one, numbered(24, keys=KEYS))
            expect(await reader.until(numbered(24)), True, "whether what came before the deletion came")
            telling = asyncio.create_task(_tell(one, numbered(30, keys=KEYS, prefix="m")))
            await server.remove()
            await telling
            for number in range(100):
                batch = numbered(12, keys=KEYS, prefix=f"n{number:02}-")
                await publish(one, batch)
                if await reader.until(batch, COMES):
                    return
    raise AssertionError("what was published after the deletion did not come")
