"""Records that are due later, and those that are tried again later."""

from __future__ import annotations

from tidings.broker import Feature, Start
from tidings.testing.checks.server import (
    GROUP,
    TOPIC,
    Server,
    check,
    drain,
    expect,
    ids,
    nothing,
    record,
    take,
)


@check(Feature.DELAY)
async def nobody_gets_a_record_before_it_is_due(server: Server) -> None:
    """Neither a group nor a view; then both do. What is due already comes at once."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
        due = server.clock.now() + server.delay
        await broker.publish([record("later", due=due), record("now"), record("past", due=due - 100.0)])
        expect(sorted(ids(await drain(group, 2))), ["now", "past"], "what comes at once")
        expect(sorted(ids(await take(view, 2))), ["now", "past"], "what a view sees at once")
        expect(ids(await drain(group, 1)), ["later"], "what comes later")
        expect(server.clock.now() >= due, True, "it comes when it is due")
        expect(ids(await take(view, 1)), ["later"], "what a view sees later")


@check(Feature.DELAY)
async def records_come_in_the_order_in_which_they_are_due(server: Server) -> None:
    """Whatever the order in which they were published; those due at one time in that of their publishing."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        now = server.clock.now()
        dues = {"r1": 3 * server.delay, "r2": server.delay, "r3": 2 * server.delay, "r4": server.delay}
        await broker.publish([record(id, "k", due=now + due) for id, due in dues.items()])
        expect(ids(await drain(group, 4)), ["r2", "r4", "r3", "r1"], "the order")


@check(Feature.DELAY)
async def a_delayed_record_outlives_its_connection(server: Server) -> None:
    """It is as durable as any other, and its id is kept once, also against what is not delayed."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        due = server.clock.now() + server.delay
        await broker.publish([record("later", due=due)])
        await broker.publish([record("later", due=due + 1.0)])
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        expect(ids(await drain(group, 1)), ["later"], "what comes later")
        await broker.publish([record("later"), record("later", due=server.clock.now() + 0.1), record("last")])
        expect(ids(await drain(group, 1)), ["last"], "an id that was published already")
        await nothing(group, "an id came twice", wait=2 * server.delay)


@check(Feature.DELAY)
async def what_is_handed_back_with_a_delay_comes_after_it(server: Server) -> None:
    """Not before, also where it changes hands meanwhile; other keys do not wait."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("a1", "a"), record("b1", "b"), record("n1")])
        lent = {each.record.id: each for each in await take(group, 3)}
        due = server.clock.now() + server.delay
        await group.nack([lent["a1"], lent["n1"]], server.delay)
        await group.ack([lent["b1"]])
        await broker.publish([record("a2", "a"), record("b2", "b"), record("n2")])
        expect(sorted(ids(await drain(group, 2))), ["b2", "n2"], "what does not wait")
        await group.close()
        again = await broker.subscribe([TOPIC], GROUP)
        taken = await drain(again, 3)
        expect(server.clock.now() >= due, True, "it comes when it is due")
        expect(ids([each for each in taken if each.record.key]), ["a1", "a2"], "the order of the key")
        expect({each.record.id: each.attempt for each in taken}, {"a1": 2, "n1": 2, "a2": 1}, "the attempts")


@check(Feature.DELAY | Feature.ORDERED)
async def delays_differ_by_record(server: Server) -> None:
    """One that waits longer does not hold up one of another key that waits less."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("a1", "a"), record("b1", "b"), record("c1", "c")])
        lent = {each.record.id: each for each in await take(group, 3)}
        await group.nack([lent["a1"]], 600.0)
        await group.nack([lent["b1"]], 2 * server.delay)
        await group.nack([lent["c1"]], server.delay)
        expect(sorted(ids(await drain(group, 2))), ["b1", "c1"], "what came")
