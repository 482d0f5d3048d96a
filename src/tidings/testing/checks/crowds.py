"""Many at once: members, connections and publishers that come, go and fail together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from tidings.broker import Broker, Delivery, Feature, Start
from tidings.errors import BrokerError
from tidings.testing.checks.members import KEYS, Work
from tidings.testing.checks.server import (
    GROUP,
    PATIENCE,
    TOPIC,
    Server,
    check,
    drain,
    expect,
    ids,
    nothing,
    numbered,
    record,
    take,
)

MANY = 8


@contextlib.asynccontextmanager
async def _connections(server: Server) -> AsyncGenerator[list[Broker]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(server.connect()) for _ in range(MANY)]


@check(Feature.ORDERED)
async def many_members_join_at_once(server: Server) -> None:
    """What was published before comes to one of them each, a key to one at a time and in order."""
    published = numbered(120, keys=KEYS)
    async with _connections(server) as brokers:
        await brokers[0].declare(TOPIC, [GROUP])
        await brokers[0].publish(published)
        members = await asyncio.gather(*(broker.subscribe([TOPIC], GROUP) for broker in brokers))
        work = Work()
        await asyncio.gather(*(work.run(f"member {n}", member, 120) for n, member in enumerate(members)))
        expect(work.wrong, [], "one member at a time")
        expect(sum(len(seen) for seen in work.by.values()), 120, "each once")
        for key in KEYS:
            expect(work.order[key], [each.id for each in published if each.key == key], f"the order of {key}")


@check()
async def many_connections_close_at_once(server: Server) -> None:
    """With records in their hands: all of these come to who is next, as if they had never been lent."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        await broker.publish(numbered(40, keys=KEYS))
        await asyncio.gather(*(_join_and_close(server) for _ in range(MANY)))
        await broker.publish(numbered(10, keys=KEYS, prefix="s"))
        group = await broker.subscribe([TOPIC], GROUP)
        taken = await drain(group, 50)
        expect(sorted(ids(taken)), ids([*numbered(40), *numbered(10, prefix="s")]), "what the next one got")
        expect({each.attempt for each in taken}, {1}, "the attempts")


async def _join_and_close(server: Server) -> None:
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await group.fetch(5, 0.1)


@check()
async def closing_beside_publishers_keeps_what_was_acknowledged(server: Server) -> None:
    """Twenty tasks publish through a connection that is closed: each publish returns or raises a BrokerError."""
    kept: set[str] = set()
    enough = asyncio.Event()

    async def publish(broker: Broker, number: int) -> None:
        for each in numbered(50, keys=[f"k{number}"], prefix=f"p{number:02}-"):
            try:
                await broker.publish([each])
            except BrokerError:
                return
            kept.add(each.id)
            if len(kept) >= 100:
                enough.set()

    async with server.connect() as watching:
        view = await watching.subscribe([TOPIC], None, Start.EARLIEST)
        async with server.connect() as broker:
            tasks = [asyncio.create_task(publish(broker, number)) for number in range(20)]
            async with asyncio.timeout(PATIENCE):
                await enough.wait()
                await broker.close()
                await asyncio.gather(*tasks)
        missing = set(kept)
        while missing:
            missing -= set(ids(await take(view, 1)))


@check()
async def a_group_goes_on_where_it_was_closed(server: Server) -> None:
    """However often its only member leaves and another connection comes: each record once."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        await broker.publish(numbered(100, keys=KEYS))
    taken: list[str] = []
    for _ in range(5):
        async with server.connect() as broker:
            group = await broker.subscribe([TOPIC], GROUP)
            taken += ids(await drain(group, 20))
    expect(sorted(taken), ids(numbered(100)), "what came")


@check(Feature.ORDERED)
async def many_failures_lose_nothing(server: Server) -> None:
    """Three members one after the other hand back thirty times and leave; then all comes, a key in order."""
    published = numbered(50, keys=KEYS)
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        await broker.publish(published)
        for _ in range(3):
            group = await broker.subscribe([TOPIC], GROUP)
            failed = 0
            while failed < 30:
                lent = await take(group, 1)
                await group.nack(lent)
                failed += len(lent)
            await group.close()
        group = await broker.subscribe([TOPIC], GROUP)
        taken = await drain(group, 50)
        for key in KEYS:
            mine = [each for each in taken if each.record.key == key]
            expect(ids(mine), [each.id for each in published if each.key == key], f"the order of {key}")
        await nothing(group, "something came twice")


@check(Feature.ORDERED)
async def a_key_has_its_order_on_each_topic(server: Server) -> None:
    """One key on two topics, heard by one member: each topic's in the order of its publishing, and none is missing."""
    topics = ["contract.left", "contract.right"]
    async with server.connect() as broker:
        group = await broker.subscribe(topics, GROUP)
        for number in range(20):
            await asyncio.gather(*(broker.publish([record(f"r{number:02}", "k", topic=topic)]) for topic in topics))
        taken: list[Delivery] = await drain(group, 40)
        for topic in topics:
            mine = [each for each in taken if each.record.topic == topic]
            expect(ids(mine), [f"r{number:02}" for number in range(20)], f"the order on {topic}")


@check()
async def a_new_group_hears_what_comes_from_then_on(server: Server) -> None:
    """By default it gets nothing of what was published before it was declared."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, ["g.earlier"])
        await broker.publish([record("before")])
        await broker.declare(TOPIC, [GROUP])
        await broker.publish([record("after")])
        group = await broker.subscribe([TOPIC], GROUP)
        expect(ids(await drain(group, 1)), ["after"], "what the new group got")
        await nothing(group, "it got more")
