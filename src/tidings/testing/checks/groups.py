"""Groups and views: who gets what, and from where."""

from __future__ import annotations

import asyncio

from tidings.broker import Feature, Lag, Record, Start
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


@check()
async def a_declared_group_gets_what_comes_before_it_subscribes(server: Server) -> None:
    """From `declare` on a group gets everything, subscribed or not; declaring again changes nothing."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        await broker.publish([record("r1")])
        await broker.declare(TOPIC, [GROUP], Start.EARLIEST)
        await broker.declare(TOPIC, [GROUP])
        await broker.publish([record("r2")])
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP, Start.LATEST)
        expect(sorted(ids(await drain(group, 2))), ["r1", "r2"], "what the group got")


@check(Feature.REPLAY)
async def a_new_group_begins_where_it_says(server: Server) -> None:
    """At the end by default, at the beginning or at a time by choice; that choice is only for a group that is new."""
    async with server.connect() as broker:
        await broker.publish([Record(TOPIC, b"", None, "t", f"r{index}", 1000.0 + index) for index in range(4)])
        latest = await broker.subscribe([TOPIC], "g.latest")
        earliest = await broker.subscribe([TOPIC], "g.earliest", Start.EARLIEST)
        timed = await broker.subscribe([TOPIC], "g.timed", 1002.0)
        await nothing(latest, "a group at the end gets what was before it")
        expect(sorted(ids(await drain(earliest, 4))), ["r0", "r1", "r2", "r3"], "from the beginning")
        expect(sorted(ids(await drain(timed, 2))), ["r2", "r3"], "from a time")
        await earliest.close()
        again = await broker.subscribe([TOPIC], "g.earliest", Start.EARLIEST)
        await nothing(again, "a known group began anew")


@check()
async def groups_do_not_share(server: Server) -> None:
    """Each group gets every record, whatever another has settled."""
    async with server.connect() as broker:
        one = await broker.subscribe([TOPIC], "g.one")
        other = await broker.subscribe([TOPIC], "g.other")
        published = numbered(20, keys=["a", "b", None])
        await broker.publish(published)
        expect(sorted(ids(await drain(one, 20))), ids(published), "what the first group got")
        expect(sorted(ids(await drain(other, 20))), ids(published), "what the other group got")


@check()
async def a_subscription_hears_its_topics_and_no_others(server: Server) -> None:
    """One subscription may have several topics, whose names may be prefixes of each other."""
    async with server.connect() as broker:
        group = await broker.subscribe(["a", "b"], GROUP)
        await broker.publish([record("r1", topic="a"), record("r2", topic="a.b"), record("r3", topic="b")])
        taken = await drain(group, 2)
        expect(sorted((each.record.topic, each.record.id) for each in taken), [("a", "r1"), ("b", "r3")], "what came")
        await nothing(group, "another topic was heard")


@check(Feature.REPLAY)
async def a_view_sees_every_record_and_remembers_nothing(server: Server) -> None:
    """A view reads from its start, needs no acknowledgement, and takes from nobody."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([Record(TOPIC, b"", "k", "t", f"r{index}", 1000.0 + index) for index in range(3)])
        for _ in range(2):
            view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
            seen = await take(view, 3)
            expect(ids(seen), ["r0", "r1", "r2"], "from the beginning")
            await view.ack(seen[:1])
            await view.nack(seen[1:])
            await nothing(view, "a view gave something twice")
            await view.close()
        timed = await broker.subscribe([TOPIC], None, 1002.0)
        latest = await broker.subscribe([TOPIC], None)
        expect(ids(await take(timed, 1)), ["r2"], "from a time")
        await broker.publish([record("r3")])
        expect(ids(await take(latest, 1)), ["r3"], "from the end")
        expect(ids(await drain(group, 4)), ["r0", "r1", "r2", "r3"], "what the group got")


@check()
async def a_fetch_waits_for_the_first_only(server: Server) -> None:
    """It returns what is there, at most `limit`; where nothing is, it waits, and wakes when something is published."""
    async with server.connect() as one, server.connect() as other:
        group = await one.subscribe([TOPIC], GROUP)
        expect(list(await group.fetch(10, 0.0)), [], "a fetch without a wait")
        waiting = asyncio.create_task(group.fetch(10, 3600.0))
        try:
            await server.quiet()
            await other.publish([record("r1")])
            async with asyncio.timeout(PATIENCE):
                taken = list(await waiting)
        finally:
            waiting.cancel()
        await one.publish(numbered(5, keys=["a", "b"]))
        while len(taken) < 6:
            lent = await group.fetch(2, 1.0)
            expect(len(lent) <= 2, True, "at most `limit` are lent")
            taken += lent
        expect(sorted(ids(taken)), ["r0000", "r0001", "r0002", "r0003", "r0004", "r1"], "what came")


@check()
async def the_lag_counts_what_is_not_acknowledged(server: Server) -> None:
    """Lent or not, tried again or not; what is unknown is None, never 0."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag of a group that has everything")
        now = server.clock.now()
        await broker.publish([Record(TOPIC, b"", key, "t", f"r{key}", now - 60.0) for key in "abcdef"])
        expect((await broker.lag(TOPIC, GROUP)).waiting, 6, "the lag after publishing six")
        taken = await take(group, 6)
        lag = await broker.lag(TOPIC, GROUP)
        expect(lag.waiting, 6, "the lag while six are lent")
        expect(lag.oldest is None or lag.oldest > 59.0, True, f"the age of the oldest, {lag.oldest}")
        await group.ack(taken[3:5])
        await group.nack(taken[:1])
        expect((await broker.lag(TOPIC, GROUP)).waiting, 4, "the lag after acknowledging two and handing back one")
        await group.ack(taken[1:3] + taken[5:])
        expect((await broker.lag(TOPIC, GROUP)).waiting, 1, "the lag with one to be tried again")
        await group.ack(await take(group, 1))
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag at the end")
        expect(await broker.lag(TOPIC, "g.unknown"), Lag(None, None), "the lag of a group that there is not")
        expect(await broker.lag("unknown", GROUP), Lag(None, None), "the lag on a topic that there is not")
