"""A group goes back, or forward."""

from __future__ import annotations

from tidings.broker import Feature, Record, Start
from tidings.errors import BrokerError, Fenced
from tidings.testing.checks.server import GROUP, TOPIC, Server, check, drain, expect, ids, nothing, record, take


def timed(count: int) -> list[Record]:
    """Records a second apart."""
    return [Record(TOPIC, b"", f"k{index % 3}", "t", f"r{index}", 1000.0 + index) for index in range(count)]


@check(Feature.REPLAY)
async def a_group_goes_where_it_is_told(server: Server) -> None:
    """To the beginning, a time or the end; other groups stay where they are."""
    async with server.connect() as broker:
        for name in (GROUP, "g.other"):
            await broker.declare(TOPIC, [name])
        await broker.publish(timed(6))
        group = await broker.subscribe([TOPIC], GROUP)
        await drain(group, 6)
        await group.close()
        for to, wanted in ((Start.EARLIEST, 6), (1003.0, 3), (999.0, 6), (Start.LATEST, 0), (5000.0, 0)):
            await broker.seek(TOPIC, GROUP, to)
            expect((await broker.lag(TOPIC, GROUP)).waiting, wanted, f"the lag after seeking {to}")
            group = await broker.subscribe([TOPIC], GROUP)
            taken = await drain(group, wanted)
            expect(sorted(ids(taken)), [f"r{index}" for index in range(6 - wanted, 6)], f"what came after {to}")
            expect({each.attempt for each in taken} <= {1}, True, "the attempts begin anew")
            await nothing(group, f"more came after seeking {to}")
            await group.close()
        expect((await broker.lag(TOPIC, "g.other")).waiting, 6, "the lag of another group")


@check(Feature.REPLAY)
async def seeking_fences_what_is_held(server: Server) -> None:
    """What a member was lent before does not count: it is told once with Fenced, then it gets what is due to it."""
    async with server.connect() as one, server.connect() as other:
        group = await one.subscribe([TOPIC], GROUP)
        await one.publish(timed(6))
        held = await take(group, 6)
        await group.ack(held[:2])
        await group.nack(held[2:3], 1000.0)
        await other.seek(TOPIC, GROUP, Start.EARLIEST)
        try:
            await group.ack(held[3:])
            raise AssertionError("an acknowledgement of what was held before the seek was taken")
        except Fenced:
            pass
        taken: list[str] = []
        fenced = 0
        while len(taken) < 6:
            try:
                taken += ids(await drain(group, 1))
            except Fenced:
                fenced += 1
                expect(fenced <= 1, True, "it is told once")
        expect(sorted(taken), [f"r{index}" for index in range(6)], "what came after the seek")
        await nothing(group, "more came after the seek")


@check(Feature.REPLAY)
async def seeking_to_the_end_skips_what_is_tried_again(server: Server) -> None:
    """Delayed retries of the topic are given up with it; what is published afterwards comes, of any key."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        await broker.publish([record("a1", "a"), record("a2", "a")])
        await group.nack((await take(group, 2))[:1])
        await group.close()
        await broker.seek(TOPIC, GROUP, Start.LATEST)
        await broker.publish([record("a3", "a")])
        group = await broker.subscribe([TOPIC], GROUP)
        expect(ids(await drain(group, 1)), ["a3"], "what came after the seek")
        await nothing(group, "something from before the seek came")


@check(Feature.REPLAY)
async def who_is_not_there_cannot_be_moved(server: Server) -> None:
    """Seeking a group that there is not raises a BrokerError and makes none."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [])
        try:
            await broker.seek(TOPIC, "g.unknown", Start.EARLIEST)
        except BrokerError:
            expect((await broker.lag(TOPIC, "g.unknown")).waiting, None, "the lag of a group that there is not")
            return
        raise AssertionError("seeking a group that there is not was not refused")
