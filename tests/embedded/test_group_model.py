"""Members of a group against a model: whatever comes in between, nothing is lost, nothing comes back, keys keep order.

Members of several processes on one file publish, fetch, settle, hand back, join, leave, fall silent, die and come back
in any order and beside each other; see `world.py` for what has to hold. EXAMPLES=1000 looks longer.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.embedded.world import LEASE, TOPICS, Member, Node, World, attempt
from tidings.broker import Delivery, Start

KEYS = [None, "a", "b", "c", "d"]
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
EXAMPLES = int(os.environ.get("EXAMPLES", "25"))

which = st.integers(0, 3)
picks = st.lists(st.integers(0, 9), max_size=4)
limits = st.integers(1, 6)
topics = st.sampled_from([TOPICS[0], TOPICS[0], TOPICS[1]])
delays = st.sampled_from([0.0, 0.0, 0.5, 4.0])


def pick(deliveries: Sequence[Delivery], numbers: Sequence[int]) -> list[Delivery]:
    """Some of them, none twice."""
    chosen = dict.fromkeys(number % len(deliveries) for number in numbers) if deliveries else {}
    return [deliveries[index] for index in chosen]


class Groups(RuleBasedStateMachine):
    """Any order of everything that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.world = World(Path(self.folder.name))

    def run(self, work: Awaitable[Any]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await work

        self.runner.run(bounded())

    def node(self, index: int) -> Node:
        return self.world.running[index % len(self.world.running)]

    def member(self, index: int) -> Member:
        return self.world.live[index % len(self.world.live)]

    with_node = precondition(lambda self: self.world.running)
    with_member = precondition(lambda self: self.world.live)

    @initialize()
    def open(self) -> None:
        self.run(self.world.open())

    @with_node
    @rule(
        index=which,
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6),
        delay=st.sampled_from([None, None, None, 0.5, 4.0]),
        topic=topics,
    )
    def publish(self, index: int, keys: list[str | None], delay: float | None, topic: str) -> None:
        self.run(self.world.publish(self.node(index), keys, delay, topic))

    @with_member
    @rule(index=which, limit=limits)
    def fetch(self, index: int, limit: int) -> None:
        self.run(self.world.fetch(self.member(index), limit))

    @with_member
    @rule(index=which, numbers=picks, with_unit=st.booleans())
    def ack(self, index: int, numbers: list[int], with_unit: bool) -> None:
        member = self.member(index)
        self.run(self.world.ack(member, pick(list(member.out.values()), numbers), with_unit=with_unit))

    @with_member
    @rule(index=which, past=picks, now=picks, with_unit=st.booleans())
    def ack_what_is_past(self, index: int, past: list[int], now: list[int], with_unit: bool) -> None:
        member = self.member(index)
        gone = [delivery for delivery in pick(member.past, past) if delivery.record.id not in member.out]
        self.run(self.world.ack(member, gone + pick(list(member.out.values()), now), with_unit=with_unit))

    @with_member
    @rule(index=which, numbers=picks, delay=delays)
    def nack(self, index: int, numbers: list[int], delay: float) -> None:
        member = self.member(index)
        self.run(self.world.nack(member, pick(list(member.out.values()), numbers), delay))

    @with_member
    @rule(index=which, numbers=picks)
    def nack_what_is_past(self, index: int, numbers: list[int]) -> None:
        member = self.member(index)
        gone = [delivery for delivery in pick(member.past, numbers) if delivery.record.id not in member.out]
        self.run(self.world.nack(member, gone, 0.0))

    @with_member
    @rule(
        index=which,
        numbers=picks,
        limit=limits,
        delay=delays,
        turns=st.lists(st.integers(1, 12), min_size=3, max_size=3),
    )
    def cancelled(self, index: int, numbers: list[int], limit: int, delay: float, turns: list[int]) -> None:
        """Whoever waits is cancelled, and does the same once more."""
        self.run(self._cancelled(self.member(index), numbers, limit, delay, turns))

    async def _cancelled(self, member: Member, numbers: list[int], limit: int, delay: float, turns: list[int]) -> None:
        world, subscription = self.world, member.subscription
        lent = await world.cancelled(subscription.fetch(limit, 0.0), turns[0])
        if lent is not None:
            world.fetched(member, lent)
        await world.fetch(member, limit)
        chosen = pick(list(member.out.values()), numbers)
        await world.cancelled(subscription.ack(chosen[:2]), turns[1])
        await world.ack(member, chosen[:2])
        await world.cancelled(subscription.nack(chosen[2:], delay), turns[2])
        await world.nack(member, chosen[2:], delay)

    @with_node
    @rule(index=which, topic=topics, to=st.sampled_from([Start.EARLIEST, Start.LATEST, -3.0, 0.0, 1.0]))
    def seek(self, index: int, topic: str, to: Start | float) -> None:
        at = to if isinstance(to, Start) else self.world.time + to
        self.run(self.world.seek(self.node(index), topic, at))

    @with_member
    @rule(index=which, acked=picks, nacked=picks, limit=limits, delay=delays, order=st.permutations(range(3)))
    def at_once(
        self, index: int, acked: list[int], nacked: list[int], limit: int, delay: float, order: list[int]
    ) -> None:
        """One task fetches, others settle."""
        self.run(self._at_once(self.member(index), acked, nacked, (limit, delay, order)))

    async def _at_once(self, member: Member, acked: list[int], nacked: list[int], rest: tuple[Any, ...]) -> None:
        limit, delay, order = rest
        out = list(member.out.values())
        done = pick(out, acked)
        back = [delivery for delivery in pick(out, nacked) if delivery not in done]
        subscription = member.subscription
        work = [subscription.fetch(limit, 0.0), subscription.ack(done), subscription.nack(back, delay)]
        results = dict(zip(order, await asyncio.gather(*(attempt(work[which]) for which in order)), strict=True))
        tell = [
            lambda: self.world.fetched(member, results[0]),
            lambda: self.world.acked(member, done, results[1]),
            lambda: self.world.nacked(member, back, delay, results[2]),
        ]
        for which in order:
            tell[which]()

    @with_member
    @rule(one=which, other=which, limit=limits)
    def fetch_both(self, one: int, other: int, limit: int) -> None:
        members = list({id(member): member for member in (self.member(one), self.member(other))}.values())

        async def both() -> None:
            results = await asyncio.gather(*(attempt(m.subscription.fetch(limit, 0.0)) for m in members))
            for member, result in zip(members, results, strict=True):
                self.world.fetched(member, result)

        self.run(both())

    @with_node
    @precondition(lambda self: len(self.world.members) < 4)
    @rule(index=which)
    def join(self, index: int) -> None:
        self.run(self.world.join(self.node(index)))

    @with_member
    @rule(index=which)
    def leave(self, index: int) -> None:
        self.run(self.world.leave(self.member(index)))

    @precondition(lambda self: len(self.world.nodes) < 4)
    @rule()
    def start_process(self) -> None:
        self.run(self.world.start())

    @with_node
    @rule(index=which)
    def stop_process(self, index: int) -> None:
        self.world.stop(self.node(index))

    @precondition(lambda self: len(self.world.running) < len(self.world.nodes))
    @rule(index=which)
    def resume_process(self, index: int) -> None:
        stopped = [node for node in self.world.nodes if not node.running]
        self.run(self.world.resume(stopped[index % len(stopped)]))

    @rule(seconds=st.sampled_from([0.5, 0.5, 1.0, 5.0, LEASE + 1.0]))
    def advance(self, seconds: float) -> None:
        self.run(self.world.advance(seconds))

    @invariant()
    def nothing_hides_from_the_lag(self) -> None:
        if self.world.nodes:
            self.world.check()

    def teardown(self) -> None:
        try:
            if self.world.nodes:
                self.run(self.world.drain())
        finally:
            self.run(self.world.close())
            self.runner.close()
            self.folder.cleanup()


def test_any_order_of_what_can_happen() -> None:
    run_state_machine_as_test(
        Groups,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]),
    )
