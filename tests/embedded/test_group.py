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
    await world.publish(world.nodes[0], [None], None)
    (member,) = world.members
    await world.fetch(member, 1)
    await world.nack(member, out(member), 0.0)
    world.check()
