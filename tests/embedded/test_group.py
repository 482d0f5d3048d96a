"""What the model has found in the embedded groups, each as a small case that fails without its fix."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.embedded.world import Member, World
from tidings.broker import Delivery


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
