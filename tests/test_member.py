"""A member of a group on a link: what its line may do to it, step by step."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from tidings.broker import Delivery, Record
from tidings.clock import Clock
from tidings.embedded.database import Database
from tidings.errors import BrokerError, Closed, Fenced
from tidings.inbox import SCHEMA, Inbox
from tidings.link import Line
from tidings.member import Member
from tidings.store import Store
from tidings.storeless import Storeless
from tidings.stores.sqlite import SqliteStore


class Script:
    """A line that brings what a test says, and remembers what was done."""

    def __init__(self) -> None:
        self.brings: deque[Sequence[Delivery] | Exception] = deque()
        self.done_with: list[int] = []
        self.closed = False
        self.trouble: Exception | None = None

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        if self.closed:
            raise Closed("the line is closed")
        if not self.brings:
            await asyncio.sleep(wait)
            return []
        what = self.brings.popleft()
        if isinstance(what, Exception):
            raise what
        return what

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        await asyncio.sleep(0)
        if self.closed:
            raise Closed("the line is closed")
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        self.done_with += [each.receipt for each in deliveries]

    async def close(self) -> None:
        self.closed = True


class House:
    """What members of one process have in common."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.members: list[Member] = []

    def check(self) -> None:
        """It is open."""

    def forget(self, member: Member) -> None:
        self.members.remove(member)

    def suspicious(self, member: Member) -> bool:
        return any(other.alone for other in self.members if other is not member)

    def member(self, group: str, *lines: Script) -> Member:
        waiting = deque(lines)

        async def join() -> Line:
            return waiting.popleft()

        member = Member(self, group, waiting.popleft(), join)
        self.members.append(member)
        return member


@contextlib.asynccontextmanager
async def kept(folder: Path) -> AsyncGenerator[SqliteStore]:
    store = SqliteStore(Database(folder / "store.db"))
    await store.open()
    unit = store.unit()
    unit.add(lambda connection: store.script(connection, SCHEMA))
    await unit.commit()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with kept(tmp_path) as store:
        house = House(store)
        yield house
        for member in list(house.members):
            await member.close()


def lent(receipt: int, key: str | None = "k", attempt: int = 1) -> Delivery:
    return Delivery(Record("topic", b"", key, "t", f"r{receipt}"), attempt, receipt)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.record.id for each in deliveries]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - what other tasks do
            await asyncio.sleep(0.01)


async def settle(member: Member, store: Store, deliveries: Sequence[Delivery]) -> None:
    unit = store.unit()
    await member.ack(deliveries, tx=unit)
    await unit.commit()


async def test_while_one_is_handed_back_nothing_of_its_key_is_lent(house: House) -> None:
    line = Script()
    line.brings += [[lent(1), lent(2)], [lent(3), lent(4, "other")]]
    member = house.member("g", line)
    first, _ = await member.fetch(10, 1.0)
    handing_back = asyncio.create_task(member.nack([first], 60.0))
    await asyncio.sleep(0)  # it has begun: the inbox is being written
    assert ids(await member.fetch(10, 0.5)) == ["r4"]
    await handing_back


async def test_what_comes_again_keeps_its_order_with_what_is_held_back(house: House) -> None:
    line = Script()
    line.brings.append([lent(1), lent(2), lent(3)])
    member = house.member("g", line)
    lent_first = await member.fetch(10, 1.0)
    await member.nack(lent_first[2:], 0.05)
    stale = lent(9)
    with pytest.raises(Fenced, match="no longer holds"):
        await settle(member, house.store, [*lent_first[:2], stale])
    with pytest.raises(Fenced, match="comes again"):
        await member.fetch(10, 1.0)
    await asyncio.sleep(0.1)
    again = list(await member.fetch(10, 1.0))
    while len(again) < 3:
        again += await member.fetch(10, 1.0)
    assert [(each.record.id, each.attempt) for each in again] == [("r1", 1), ("r2", 1), ("r3", 2)]
    with pytest.raises(Fenced, match="no longer holds"):  # the same as before, of which others were made since
        await settle(member, house.store, lent_first[:2])


async def test_after_another_has_settled_it_joins_anew_and_goes_on_acknowledging(house: House) -> None:
    old, new = Script(), Script()
    old.brings.append([lent(1)])
    new.brings.append([lent(1), lent(2)])
    member = house.member("g", old, new)
    taken = await member.fetch(10, 1.0)
    other = Inbox(house.store, "g", "somebody else")
    unit = house.store.unit()
    unit.add(lambda connection: other.finish(connection, [("topic", "r1")], epoch=0, at=0.0) and None)
    await unit.commit()
    with pytest.raises(Fenced, match="another member"):
        await settle(member, house.store, taken)
    with pytest.raises(Fenced):
        await member.fetch(10, 1.0)
    assert old.closed
    (second,) = await member.fetch(10, 1.0)
    await settle(member, house.store, [second])
    await until(lambda: sorted(new.done_with) == [1, 2])


async def test_an_acknowledgement_that_fails_is_told_again(house: House) -> None:
    line = Script()
    line.brings.append([lent(1)])
    line.trouble = BrokerError("the server is away")
    member = house.member("g", line)
    await settle(member, house.store, await member.fetch(10, 1.0))
    await until(lambda: line.done_with == [1])


async def test_what_a_lost_line_brought_is_not_acknowledged_on_the_next(house: House) -> None:
    line = Script()
    line.brings += [[lent(1)], Fenced("lost")]
    member = house.member("g", line)
    unit = house.store.unit()
    await member.ack(await member.fetch(10, 1.0), tx=unit)
    with pytest.raises(Fenced, match="lost"):
        await member.fetch(10, 1.0)
    with pytest.raises(Fenced, match="no longer holds"):
        await unit.commit()
    assert line.done_with == []


async def test_suspects_of_two_groups_take_turns(house: House) -> None:
    lines = [Script(), Script()]
    for line in lines:
        line.brings.append([lent(1, "a", 2), lent(2, "b", 3), lent(3, "c")])
    one, other = house.member("one", lines[0]), house.member("other", lines[1])
    (first,) = await one.fetch(10, 1.0)
    assert ids(await other.fetch(10, 0.1)) == []
    await settle(one, house.store, [first])
    (second,) = await other.fetch(10, 1.0)
    assert ids(await one.fetch(10, 0.1)) == []
    await settle(other, house.store, [second])
    for member in (one, other):
        (third,) = await member.fetch(10, 1.0)
        await settle(member, house.store, [third])
        (last,) = await member.fetch(10, 1.0)
        assert (third.record.id, last.record.id) == ("r2", "r3")
        await settle(member, house.store, [last])


async def test_without_a_store_what_is_acknowledged_is_done_when_it_returns() -> None:
    line = Script()
    line.brings.append([lent(1), lent(2)])
    house = House(Storeless())
    member = house.member("g", line)
    await member.ack(await member.fetch(10, 1.0))
    assert line.done_with == [1, 2]
    await member.close()
    with pytest.raises(Closed):
        await member.fetch(10, 1.0)
