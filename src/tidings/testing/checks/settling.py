"""What is settled is gone for good, what is not comes again."""

from __future__ import annotations

import asyncio

from tidings.broker import Feature
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
    raises_closed,
    record,
    take,
)


@check()
async def what_is_acknowledged_is_never_lent_again(server: Server) -> None:
    """In any order, and after any number of reopenings; the rest comes, as often as it takes."""
    published = numbered(9, keys=[None, *"abcdefgh"])
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        await broker.publish(published)
    left = ids(published)
    for turn in (7, 0, 3, 5):
        async with server.connect() as broker:
            group = await broker.subscribe([TOPIC], GROUP)
            lent = await take(group, len(left))
            expect(sorted(ids(lent)), left, "what had not been acknowledged")
            chosen = [each for each in lent if each.record.id == f"r{turn:04}"]
            await group.ack(chosen)
            left.remove(chosen[0].record.id)


@check()
async def acknowledging_twice_or_nothing_is_harmless(server: Server) -> None:
    """Also for what was handed back in between, and in one call."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish(numbered(3, keys=["a", "b", "c"]))
        lent = await take(group, 3)
        await group.ack([])
        await group.ack([lent[1], lent[1]])
        await group.ack([lent[1]])
        await group.ack(lent)
        await group.ack(lent)
        await group.nack(lent)
        await nothing(group, "what was acknowledged came again")
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag")


@check()
async def what_is_handed_back_comes_again(server: Server) -> None:
    """With its attempt counted, body and key as they were, as often as it is handed back."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("r1", "k")])
        for attempt in range(1, 6):
            (lent,) = await take(group, 1)
            expect(lent.attempt, attempt, "the attempt")
            expect((lent.record.value, lent.record.key), (b"r1", "k"), "the record")
            await group.nack([lent])
        await group.ack(await take(group, 1))
        await nothing(group, "it came once too often")


@check(Feature.ORDERED)
async def later_ones_of_the_key_wait_for_what_is_handed_back(server: Server) -> None:
    """Those that are lent are withdrawn, and settling them means nothing; they come after it with their attempt."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("a1", "a"), record("a2", "a"), record("b1", "b"), record("a3", "a")])
        lent = {each.record.id: each for each in await take(group, 4)}
        await group.nack([lent["a1"]])
        await group.ack([lent["a2"], lent["b1"]])
        await group.nack([lent["a3"]])
        await broker.publish([record("a4", "a")])
        again = await drain(group, 4)
        expect(ids(again), ["a1", "a2", "a3", "a4"], "the order of the key")
        expect([each.attempt for each in again], [2, 1, 1, 1], "their attempts")


@check(Feature.ORDERED)
async def handing_back_several_of_a_key_keeps_their_order(server: Server) -> None:
    """Whatever the order in which they are named, and when the first of them is handed back once more."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("a1", "a"), record("a2", "a"), record("a3", "a")])
        a1, a2, _ = await take(group, 3)
        await group.nack([a2, a1])
        first = await take(group, 1)
        expect(ids(first), ["a1"], "the first to come")
        beside = list(await group.fetch(10, 0.3))
        await group.nack(first)
        expect(all(each.record.id != "a1" for each in beside), True, "a1 is lent once")
        again = await drain(group, 3)
        expect(ids(again), ["a1", "a2", "a3"], "the order of the key")
        expect([each.attempt for each in again][::2], [3, 1], "the attempts of a1 and a3")


@check()
async def closing_gives_back_at_once_and_counts_nothing(server: Server) -> None:
    """What a member had comes to another as if it had never been lent."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        await broker.publish([record("r1", "a"), record("r2", "b")])
        for _ in range(3):
            group = await broker.subscribe([TOPIC], GROUP)
            expect([each.attempt for each in await take(group, 2)], [1, 1], "the attempts")
            await group.close()


@check(Feature.DELAY)
async def closing_keeps_the_attempt(server: Server) -> None:
    """What a member had handed back before comes to another with the attempt that it had."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("r1", "a"), record("r2", "b")])
        await group.nack([each for each in await take(group, 2) if each.record.id == "r1"])
        (again,) = await take(group, 1)
        expect((again.record.id, again.attempt), ("r1", 2), "what was handed back")
        await group.close()
        group = await broker.subscribe([TOPIC], GROUP)
        lent = await drain(group, 2)
        expect({each.record.id: each.attempt for each in lent}, {"r1": 2, "r2": 1}, "the attempts after a close")


@check()
async def a_closed_subscription_says_so(server: Server) -> None:
    """After close fetch, ack and nack raise Closed, also in a fetch that waits; closing twice is harmless."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("r1")])
        lent = await take(group, 1)
        waiting = asyncio.create_task(group.fetch(1, 3600.0))
        await server.quiet()
        await group.close()
        await group.close()
        async with asyncio.timeout(PATIENCE):
            await raises_closed(waiting, "a fetch that waits")
        await raises_closed(group.fetch(1, 0.0), "fetch after close")
        await raises_closed(group.ack(lent), "ack after close")
        await raises_closed(group.nack(lent), "nack after close")
        await group.extend(lent, 1.0)
        again = await broker.subscribe([TOPIC], GROUP)
        expect(ids(await drain(again, 1)), ["r1"], "what was not acknowledged")


@check()
async def closing_the_connection_closes_its_subscriptions(server: Server) -> None:
    """A fetch that waits ends with Closed, and what was lent goes to the next."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        view = await broker.subscribe([TOPIC], None)
        await broker.publish([record("r1")])
        await take(group, 1)
        await take(view, 1)
        waiting = [asyncio.create_task(each.fetch(1, 3600.0)) for each in (group, view)]
        await server.quiet()
        await broker.close()
        async with asyncio.timeout(PATIENCE):
            for each in waiting:
                await raises_closed(each, "a fetch that waits")
    async with server.connect() as broker:
        again = await broker.subscribe([TOPIC], GROUP)
        expect(ids(await drain(again, 1)), ["r1"], "what was not acknowledged")
