"""What is out at a time is bounded in bytes, not only in number."""

import pytest

from tidings.broker import Delivery, Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded.feed import FEW, READ
from tidings.embedded.hand import OUT

TOPIC, GROUP = "picture", "shop.look"
LARGE = 1 << 20
MOST = OUT + READ + FEW * LARGE


@pytest.fixture(autouse=True)
async def declared(broker: SqliteBroker) -> None:
    await broker.declare(TOPIC, [GROUP], Start.EARLIEST)


async def publish(broker: SqliteBroker, count: int, size: int) -> list[str]:
    ids = [f"{size}-{number:04}" for number in range(count)]
    for id in ids:
        await broker.publish([Record(TOPIC, bytes(size), f"k{hash(id) % 7}", "picture.taken", id)])
    return ids


async def test_large_bodies_are_lent_as_memory_allows_and_all_in_the_end(broker: SqliteBroker) -> None:
    ids = await publish(broker, 80, LARGE)
    group = await broker.subscribe([TOPIC], GROUP)
    out: list[Delivery] = []
    came: list[str] = []
    while len(came) < len(ids):
        while lent := await group.fetch(512, 0.0):
            out += lent
            came += [delivery.record.id for delivery in lent]
        assert 0 < len(out) * LARGE <= MOST
        await group.ack(out[: len(out) // 2 + 1])
        del out[: len(out) // 2 + 1]

    assert came == ids


async def test_retried_large_bodies_are_too(broker: SqliteBroker) -> None:
    ids = await publish(broker, 60, LARGE)
    group = await broker.subscribe([TOPIC], GROUP)
    while lent := await group.fetch(512, 0.0):
        await group.nack(lent)
        if lent[0].attempt > 1:
            break
    await group.close()
    group = await broker.subscribe([TOPIC], GROUP)
    came: set[str] = set()
    while lent := await group.fetch(512, 0.0):
        assert len(lent) * LARGE <= MOST
        came |= {delivery.record.id for delivery in lent}
        await group.ack(lent)

    assert came == set(ids)


async def test_small_ones_after_large_ones_are_lent_as_many_as_are_wanted(broker: SqliteBroker) -> None:
    await publish(broker, 20, LARGE)
    small = await publish(broker, 1500, 100)
    group = await broker.subscribe([TOPIC], GROUP)
    most = 0
    while lent := await group.fetch(512, 0.0):
        await group.ack(lent)
        most = max(most, len(lent))

    assert most >= 512 < len(small)


async def test_a_view_reads_large_bodies_a_few_at_a_time(broker: SqliteBroker) -> None:
    ids = await publish(broker, 40, LARGE)
    view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
    came: list[str] = []
    while lent := await view.fetch(512, 0.0):
        assert len(lent) * LARGE <= MOST
        came += [delivery.record.id for delivery in lent]

    assert came == ids
