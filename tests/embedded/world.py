"""A file, the processes on it, and a model of what must be true of them.

The model knows of every record how often it was lent and who has it. From the file it takes only what it cannot know:
the order of the log, and which members were buried when.
"""

import asyncio
import sqlite3
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from tidings.broker import Delivery, Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded import backlog
from tidings.embedded.database import Connection, Database
from tidings.embedded.group import Group
from tidings.errors import Fenced
from tidings.stores.sqlite import SqliteStore
from tidings.testing.clock import TestClock

GROUP = "shop.reserve"
TOPICS = ("order", "stock")
LEASE = 6.0
STEP = LEASE / 4


class Item:
    """What is known of one record."""

    def __init__(self, id: str, topic: str, key: str | None, due: float, time: float) -> None:
        self.id = id
        self.topic = topic
        self.key = key
        self.due = due
        self.time = time  # when it was published
        self.tries = 0  # how often it was lent and not given back
        self.settled = False
        self.suspect = False
        self.holder: Member | None = None

    def line(self) -> tuple[str, str | None]:
        """What stays in order."""
        return self.topic, self.key

    def give_up(self, *, tries: int, due: float = 0.0, suspect: bool = False) -> None:
        """Nobody has it any more."""
        self.holder, self.tries, self.due, self.suspect = None, tries, due, suspect


class Node:
    """A process: a broker with a clock of its own."""

    def __init__(self, path: Path, time: float) -> None:
        self.clock = TestClock(time)
        self.broker = SqliteBroker(Database(path, durable=False), self.clock, lease=LEASE, keep=float("inf"))
        self.store = SqliteStore(self.broker.database, lambda: self.broker.writer)
        self.running = True
        self.silent_since = 0.0

    async def open(self) -> None:
        """Begin."""
        await self.broker.open()
        await self.store.open()
        await self.calm()

    async def calm(self) -> None:
        """Housekeeping has done what it had to and sleeps."""
        await asyncio.sleep(0)
        while self.clock.due is None:  # noqa: ASYNC110 - it tells nobody when it falls asleep
            await asyncio.sleep(0.0001)

    async def close(self) -> None:
        """Give the threads and files back; what the members have was seen to before."""
        await self.store.close()
        await self.broker.close()


class Member:
    """What is known of one member of the group."""

    def __init__(self, subscription: Group, node: Node) -> None:
        self.subscription = subscription
        self.node = node
        self.id = subscription.member
        self.out: dict[str, Delivery] = {}
        self.past: list[Delivery] = []  # settled, handed back or lost
        self.void = False  # whether all it has is to be lent again


class World:
    """What happens, and what has to come of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tidings.db"
        self.nodes: list[Node] = []
        self.members: list[Member] = []
        self.items: dict[str, Item] = {}
        self.time = TestClock().now()

    async def open(self) -> None:
        """A file, one process, one member."""
        await self.start()
        self.eye = sqlite3.connect(self.path, isolation_level=None, factory=Connection)
        for topic in TOPICS:
            await self.nodes[0].broker.declare(topic, [GROUP])
        await self.join(self.nodes[0])

    async def close(self) -> None:
        """All processes end."""
        self.eye.close()
        for node in self.nodes:
            await node.close()

    # -- processes and members

    @property
    def running(self) -> list[Node]:
        """The processes that were not stopped."""
        return [node for node in self.nodes if node.running]

    @property
    def live(self) -> list[Member]:
        """Their members."""
        return [member for member in self.members if member.node.running]

    async def start(self) -> None:
        """One more process."""
        node = Node(self.path, self.time)
        self.nodes.append(node)
        await node.open()

    def stop(self, node: Node) -> None:
        """As SIGSTOP or SIGKILL do: it says nothing more, and gives nothing back."""
        node.running, node.silent_since = False, self.time

    async def resume(self, node: Node) -> None:
        """As SIGCONT does."""
        node.running = True
        node.clock.move(self.time)
        await node.calm()
        self._bury()

    async def advance(self, seconds: float) -> None:
        """Time goes by, in steps that are shorter than a lease."""
        until = self.time + seconds
        while self.time < until:
            self.time = min(self.time + STEP, until)
            for node in self.running:
                node.clock.move(self.time)
                await node.calm()
            self._bury()

    def _present(self) -> set[int]:
        """The members that the file knows."""
        return {id for (id,) in self.eye.execute("SELECT id FROM tidings_member")}

    def _bury(self) -> None:
        """Whoever is gone from the file has lost what it was lent; it must have been silent for its lease."""
        present = self._present()
        for member in self.members:
            if member.id not in present and member.out:
                silent = self.time - member.node.silent_since
                assert silent >= LEASE - STEP - 2 * LEASE / 3, f"buried after {silent} s of silence"
                for id, delivery in member.out.items():
                    self.items[id].give_up(tries=delivery.attempt, suspect=True)
                self._forget(member, list(member.out))

    async def join(self, node: Node) -> None:
        """One more member."""
        subscription = await node.broker.subscribe(TOPICS, GROUP)
        assert isinstance(subscription, Group)
        self.members.append(Member(subscription, node))

    async def leave(self, member: Member) -> None:
        """An orderly end: what it has is given back, its attempt not counted."""
        await member.subscription.close()
        self._give_back(member)
        self.members.remove(member)

    def _give_back(self, member: Member) -> None:
        for id, delivery in member.out.items():
            self.items[id].give_up(tries=delivery.attempt - 1)
        self._forget(member, list(member.out))

    def _forget(self, member: Member, ids: Sequence[str]) -> None:
        member.past += [member.out.pop(id) for id in ids]

    # -- records

    async def publish(
        self, node: Node, keys: Sequence[str | None], delay: float | None = None, topic: str = TOPICS[0]
    ) -> None:
        """One publish of several records."""
        due = None if delay is None else self.time + delay
        records = []
        for key in keys:
            id = f"r{len(self.items):03}"
            self.items[id] = Item(id, topic, key, due or 0.0, self.time)
            records.append(Record(topic, id.encode(), key, "t", id, self.time, {}, due))
        await node.broker.publish(records)
        await node.calm()

    def log(self) -> list[Item]:
        """What can be read by now, in order."""
        return [self.items[id] for (id,) in self.eye.execute("SELECT id FROM tidings_log ORDER BY pos")]

    async def fetch(self, member: Member, limit: int) -> None:
        """Fetch what is there."""
        self.fetched(member, await attempt(member.subscription.fetch(limit, 0.0)))

    def fetched(self, member: Member, result: Sequence[Delivery] | Fenced) -> None:
        """What came of a fetch."""
        if member.void or isinstance(result, Fenced):
            self._give_back(member)
            member.void = False
        member.id = member.subscription.member
        if isinstance(result, Fenced):
            return
        if member.id in self._present():
            order = self.log()
            self._beside(member, [self.items[delivery.record.id] for delivery in result])
            for delivery in result:
                self._lent(member, delivery, order)
        else:  # another process has sent the group elsewhere, and it has not heard of it: settling these is refused
            member.past += result

    def _beside(self, member: Member, lent: Sequence[Item]) -> None:
        """Nothing is out beside a suspect but others that have seen one death; what has seen two is alone."""
        if lent and any(self.items[id].suspect for id in member.out):
            raise AssertionError(f"{lent[0].id} is lent beside a suspect")
        if any(item.suspect for item in lent):
            assert not member.out, f"{lent[0].id} is suspect and lent beside others"
            assert len(lent) == 1 or all(item.suspect and item.tries == 1 for item in lent), (
                "not all have seen one death"
            )

    def _lent(self, member: Member, delivery: Delivery, order: Sequence[Item]) -> None:
        item = self.items[delivery.record.id]
        assert (delivery.record.value, delivery.record.topic, delivery.record.key) == (id_of(item), *item.line())
        assert not item.settled, f"{item.id} was settled and is lent again"
        assert item.holder is None, f"{item.id} is out already"
        assert item.due <= self.time, f"{item.id} comes before it is due"
        assert delivery.attempt == item.tries + 1, f"{item.id}: attempt {delivery.attempt}, not {item.tries + 1}"
        for other in order[: order.index(item)]:
            if item.key is not None and other.line() == item.line() and not other.settled:
                assert other.holder is member, f"{item.id} overtakes {other.id} of its key"
        item.holder = member
        member.out[item.id] = delivery

    async def ack(self, member: Member, deliveries: Sequence[Delivery], *, with_unit: bool = False) -> None:
        """Settle, alone or in a transaction."""
        if with_unit:
            unit = member.node.store.unit()
            await member.subscription.ack(deliveries, tx=unit)
            result = await attempt(unit.commit())
        else:
            result = await attempt(member.subscription.ack(deliveries))
        self.acked(member, deliveries, result)

    def acked(self, member: Member, deliveries: Sequence[Delivery], result: Fenced | None) -> None:
        """What came of an ack."""
        if result is not None:
            member.void = True
            return
        for id in {delivery.record.id for delivery in deliveries if delivery.record.id in member.out}:
            self.items[id].settled = True
            self.items[id].holder = None
            self._forget(member, [id])

    async def nack(self, member: Member, deliveries: Sequence[Delivery], delay: float) -> None:
        """Hand back."""
        self.nacked(member, deliveries, delay, await attempt(member.subscription.nack(deliveries, delay)))

    def nacked(self, member: Member, deliveries: Sequence[Delivery], delay: float, result: Fenced | None) -> None:
        """What came of a nack: later ones of the same keys are withdrawn."""
        if result is not None:
            member.void = True
            return
        back = {delivery.record.id: delivery for delivery in deliveries if delivery.record.id in member.out}
        for id, delivery in back.items():
            self.items[id].give_up(tries=delivery.attempt, due=self.time + delay)
        self._forget(member, list(back))
        order = self.log()
        for id, delivery in list(member.out.items()):
            item = self.items[id]
            before = [other for other in order[: order.index(item)] if other.line() == item.line()]
            if item.key is not None and any(other.id in back for other in before):
                item.give_up(tries=delivery.attempt - 1)
                self._forget(member, [id])

    async def cancelled(self, operation: Coroutine[Any, Any, Any], turns: int) -> Any:
        """What came of it; None where it was cancelled after so many turns of the loop."""
        task = asyncio.create_task(attempt(operation))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    async def seek(self, node: Node, topic: str, to: Start | float) -> None:
        """All members lose what they have; of this topic it depends on where the group is sent."""
        await node.broker.seek(topic, GROUP, to)
        for member in self.members:
            self._give_back(member)
        items = [item for item in self.log() if item.topic == topic]
        first = {Start.EARLIEST: 0, Start.LATEST: len(items)}.get(to)  # type: ignore[call-overload]
        if first is None:
            first = next((index for index, item in enumerate(items) if item.time >= to), len(items))  # type: ignore[operator]
        for index, item in enumerate(items):
            item.give_up(tries=0)
            item.settled = index < first

    # -- what must hold

    def check(self) -> None:
        """Nothing hides from the lag."""
        for topic in TOPICS:
            waiting = sum(not item.settled for item in self.log() if item.topic == topic)
            assert backlog.lag(self.eye, topic, GROUP, self.time).waiting == waiting

    async def drain(self) -> None:
        """The faults are over: everything comes to the one member that is left, and the file keeps no exceptions."""
        if not self.running:
            await self.start()
        keeper = self.running[0]
        for member in self.live:
            await self.leave(member)
        for node in self.running[1:]:
            self.stop(node)
        await self.advance(100.0)
        await self.join(keeper)
        member = self.members[-1]
        for _ in range(3 * len(self.items) + 3):
            await self.fetch(member, 10)
            await self.ack(member, list(member.out.values()), with_unit=True)
        assert not [item.id for item in self.items.values() if not item.settled], "lost"
        self.check()
        for topic in TOPICS:
            await self.publish(keeper, [None], topic=topic)
            await self.fetch(member, 10)
            await self.ack(member, list(member.out.values()))
        left = self.eye.execute("SELECT * FROM tidings_ack").fetchall()
        assert not left, f"rows that nobody needs stay: {left}"


def id_of(item: Item) -> bytes:
    """The body of its record."""
    return item.id.encode()


async def attempt(operation):  # type: ignore[no-untyped-def]
    """What it returns, or the Fenced that it raises."""
    try:
        return await operation
    except Fenced as fenced:
        return fenced
