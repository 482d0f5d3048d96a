"""What the model has found in the embedded groups, each as a small case that fails without its fix."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.embedded.world import Member, World
from tidings.broker import Delivery, Record
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded.database import Database
from tidings.embedded.group import Group
from tidings.errors import Closed
from tidings.testing.clock import TestClock


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One process with one member; at the end everything has to come."""
    world = World(tmp_path)
    await world.open()
    try:
        yield world
        await world.drain()
    finally:
        await world.close()


def out(member: Member) -> list[Delivery]:
    return list(member.out.values())


async def test_what_is_tried_again_is_counted_once_in_the_lag(world: World) -> None:
    await world.publish(world.nodes[0], [None])
    (member,) = world.members
    await world.fetch(member, 1)
    await world.nack(member, out(member), 0.0)
    world.check()


async def test_what_lies_between_two_that_are_handed_back_is_not_overtaken(world: World) -> None:
    (member,) = world.members
    await world.publish(world.nodes[0], ["a", "a", "a"])
    await world.fetch(member, 3)
    first, _, last = out(member)
    await world.nack(member, [first, last], 0.0)
    await world.fetch(member, 3)
    await world.nack(member, out(member), 0.0)
    await world.fetch(member, 3)


async def test_what_is_handed_back_later_named_first_keeps_its_place(world: World) -> None:
    (member,) = world.members
    await world.publish(world.nodes[0], ["a", "a", "a"])
    await world.fetch(member, 3)
    first, _, last = out(member)
    await world.nack(member, [last, first], 0.0)
    await world.fetch(member, 3)


async def test_a_delay_is_kept_behind_an_earlier_one_of_the_key(world: World) -> None:
    (member,) = world.members
    await world.publish(world.nodes[0], ["a", "a"])
    await world.fetch(member, 2)
    first, last = out(member)
    await world.nack(member, [last], 50.0)
    await world.nack(member, [first], 0.0)
    await world.fetch(member, 2)
    await world.ack(member, out(member))
    await world.fetch(member, 2)
    assert not member.out


async def test_a_commit_is_read_once_and_nothing_more_before_the_next(tmp_path: Path) -> None:
    broker = SqliteBroker(Database(tmp_path / "tidings.db"), TestClock())
    await broker.open()
    try:
        group = await broker.subscribe(["order"], "shop.hear")
        assert isinstance(group, Group)
        read: list[str] = []
        broker._reader.set_trace_callback(read.append)
        fetching = await waiting(group)
        for number in range(5):
            read.clear()
            await broker.publish([Record("order", b"{}", id=str(number))])
            assert [each.record.id for each in await fetching] == [str(number)]
            fetching = await waiting(group)
            assert sum("body FROM tidings_log" in statement for statement in read) == 1
        await group.close()
        with pytest.raises(Closed):
            await fetching
    finally:
        await broker.close()


async def waiting(group: Group) -> asyncio.Task[Sequence[Delivery]]:
    """A fetch that has come to wait."""
    fetching = asyncio.create_task(group.fetch(10, 10.0))
    async with asyncio.timeout(60):
        while not group.waiting:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    return fetching
