"""Several members of one group: who has what, and what happens when one joins, leaves or falls silent."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from tidings.broker import Delivery, Feature, Subscription
from tidings.errors import BrokerError
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

KEYS = [f"k{index}" for index in range(12)]


class Work:
    """Members that fetch and settle at the same time, and what they saw."""

    def __init__(self) -> None:
        self.order: dict[str | None, list[str]] = defaultdict(list)
        self.by: dict[str, set[str]] = defaultdict(set)
        self.holder: dict[str, str] = {}
        self.wrong: list[str] = []
        self.done = 0

    async def run(self, name: str, member: Subscription, until: int) -> None:
        """Take and settle until all members have settled so many."""
        async with asyncio.timeout(PATIENCE):
            while self.done < until:
                for lent in await member.fetch(5, 0.5):
                    await self._handle(name, member, lent)

    async def _handle(self, name: str, member: Subscription, lent: Delivery) -> None:
        id, key = lent.record.id, str(lent.record.key)
        if self.holder.setdefault(key, name) != name:
            self.wrong.append(f"{name} was lent {id} while {self.holder[key]} had {key}")
        await asyncio.sleep(0)
        self.order[lent.record.key].append(id)
        self.by[name].add(id)
        del self.holder[key]
        await member.ack([lent])
        self.done += 1


@check(Feature.ORDERED)
async def members_share_by_key(server: Server) -> None:
    """Each record comes to one member, a key to one at a time and in order, and no member goes away empty."""
    published = numbered(240, keys=KEYS)
    async with server.connect() as one, server.connect() as other:
        first, second = await one.subscribe([TOPIC], GROUP), await other.subscribe([TOPIC], GROUP)
        work = Work()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work.run("first", first, 240))
            tasks.create_task(work.run("second", second, 240))
            for each in published:
                await one.publish([each])
        expect(work.wrong, [], "one member at a time")
        expect(sum(len(seen) for seen in work.by.values()), 240, "each once")
        for key in KEYS:
            expect(work.order[key], [each.id for each in published if each.key == key], f"the order of {key}")


@check()
async def who_joins_gets_its_share(server: Server) -> None:
    """A second member is lent something while the first goes on, and nothing that the first still has."""
    async with server.connect() as one, server.connect() as other:
        first = await one.subscribe([TOPIC], GROUP)
        await one.publish(numbered(24, keys=KEYS))
        held = await take(first, 24)
        second = await other.subscribe([TOPIC], GROUP)
        await nothing(second, "what the first member has was lent to the second")
        await first.ack(held)
        seen: dict[str, str] = {}
        number = 0
        async with asyncio.timeout(PATIENCE):
            while "second" not in seen.values():
                await one.publish(numbered(12, keys=KEYS, prefix=f"n{number:03}-"))
                number += 1
                for name, member in (("first", first), ("second", second)):
                    lent = await member.fetch(100, 0.05)
                    await member.ack(lent)
                    expect([id for id in ids(lent) if id in seen], [], "what was lent twice")
                    seen |= dict.fromkeys(ids(lent), name)


@check()
async def who_leaves_hands_over_at_once(server: Server) -> None:
    """What the member that left had not settled, and all that comes later, goes to the other."""
    async with server.connect() as one, server.connect() as other:
        first, second = await one.subscribe([TOPIC], GROUP), await other.subscribe([TOPIC], GROUP)
        await one.publish(numbered(24, keys=KEYS))
        await first.fetch(100, 0.3)
        await first.close()
        await one.publish(numbered(24, keys=KEYS, prefix="s"))
        taken = await drain(second, 48)
        expect(len(set(ids(taken))), 48, "all of it")
        expect({each.attempt for each in taken}, {1}, "the attempts")


@check(wants="silence")
async def what_a_silent_member_had_is_lent_again(server: Server) -> None:
    """Not before its lease has ended, and then with the attempt counted; what it had settled stays settled."""
    assert server.silence is not None
    async with server.connect() as one, server.connect() as other:
        first = await one.subscribe([TOPIC], GROUP)
        await one.publish(numbered(6, keys=KEYS[:6]))
        held = {each.record.id: each for each in await take(first, 6)}
        await first.ack([held["r0002"], held["r0003"]])
        second = await other.subscribe([TOPIC], GROUP)
        await server.silence(one)
        await nothing(second, "it was lent again before the lease had ended", wait=server.lease / 3)
        taken = await drain(second, 4)
        again = {each.record.id: each.attempt for each in taken}
        expect(again, {"r0000": 2, "r0001": 2, "r0004": 2, "r0005": 2}, "the attempts")
        await nothing(second, "more came than was lost")


@check(Feature.DELAY, wants="silence")
async def attempts_add_up_over_members(server: Server) -> None:
    """What was handed back before its member fell silent has both in its attempt."""
    assert server.silence is not None
    async with server.connect() as one, server.connect() as other:
        first = await one.subscribe([TOPIC], GROUP)
        await one.publish([record("r1", "a"), record("r2", "b")])
        await first.nack([each for each in await take(first, 2) if each.record.id == "r1"])
        expect([each.attempt for each in await take(first, 1)], [2], "the attempt of what was handed back")
        second = await other.subscribe([TOPIC], GROUP)
        await server.silence(one)
        again = {each.record.id: each.attempt for each in await drain(second, 2)}
        expect(again, {"r1": 3, "r2": 2}, "the attempts")


@check(Feature.ORDERED, wants="silence")
async def a_silent_member_does_not_disturb_the_order(server: Server) -> None:
    """What it had of a key comes before what was published later, in the order in which it was published."""
    assert server.silence is not None
    async with server.connect() as one, server.connect() as other:
        first = await one.subscribe([TOPIC], GROUP)
        await one.publish([record(f"{key}{index}", key) for index in (1, 2, 3) for key in "ab"])
        await take(first, 4)
        await server.silence(one)
        await other.publish([record(f"{key}4", key) for key in "ab"])
        second = await other.subscribe([TOPIC], GROUP)
        taken = ids(await drain(second, 8))
        for key in "ab":
            expect([id for id in taken if id[0] == key], [f"{key}{index}" for index in (1, 2, 3, 4)], "the order")


@check(wants="silence")
async def who_has_lost_its_lease_settles_nothing(server: Server) -> None:
    """Its late ack or nack of what another was lent is refused or means nothing: the member that took over decides."""
    assert server.silence is not None
    async with server.connect() as one, server.connect() as other:
        first = await one.subscribe([TOPIC], GROUP)
        await one.publish([record("r1", "a"), record("r2", "b")])
        late = {each.record.id: each for each in await take(first, 2)}
        await server.silence(one)
        second = await other.subscribe([TOPIC], GROUP)
        held = await take(second, 1)
        for settle in (first.ack, first.nack):
            try:
                await settle([late[each.record.id] for each in held])
            except BrokerError:
                continue
        expect((await other.lag(TOPIC, GROUP)).waiting, 2, "what is not acknowledged")
        await second.ack(held)
        expect(sorted(ids(held + await drain(second, 1))), ["r1", "r2"], "what the second member got")
