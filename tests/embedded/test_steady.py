"""Retries are counted on a clock that nobody sets."""

from pathlib import Path

import pytest

from tidings.broker import Record, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded.database import Database
from tidings.testing.clock import TestClock

DAY = 86_400.0
TOPIC, GROUP = "order", "shop.reserve"


class Settable(TestClock):
    """A clock whose time of day can be set while time goes on."""

    shift = 0.0

    def now(self) -> float:
        return self._now + self.shift


async def lent(group: Subscription) -> list[str]:
    return [delivery.record.id for delivery in await group.fetch(10, 0.0)]


@pytest.mark.parametrize("shift", [-DAY, DAY])
async def test_a_retry_waits_as_long_as_it_was_told_to_when_the_clock_is_set(tmp_path: Path, shift: float) -> None:
    clock = Settable()
    broker = SqliteBroker(Database(tmp_path / "tidings.db", durable=False), clock)
    await broker.open()
    group = await broker.subscribe([TOPIC], GROUP)
    await broker.publish([Record(TOPIC, b"1", "key", "order.placed", "a"), Record(TOPIC, b"2", "key", id="b")])
    (first, _) = await group.fetch(10, 0.0)
    await group.nack([first], 5.0)

    clock.shift = shift
    clock.move(clock.monotonic() + 4.9)
    assert await lent(group) == []
    clock.move(clock.monotonic() + 0.2)
    assert await lent(group) == ["a"]
    await broker.close()


async def test_who_opens_the_file_after_the_clock_was_set_agrees_on_the_time(tmp_path: Path) -> None:
    first, second = Settable(), Settable()
    second.shift = -DAY
    brokers = [SqliteBroker(Database(tmp_path / "tidings.db", durable=False), clock) for clock in (first, second)]
    await brokers[0].open()
    await brokers[1].open()

    assert brokers[0].steady() == brokers[1].steady() == first.now()
    for broker in brokers:
        await broker.close()


async def test_after_another_boot_the_time_of_day_counts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tidings.embedded import membership

    clock = Settable()
    for boot in ("one", "two"):
        monkeypatch.setattr(membership, "boot", lambda boot=boot: boot)
        clock.shift += DAY
        broker = SqliteBroker(Database(tmp_path / "tidings.db", durable=False), clock)
        await broker.open()
        assert broker.steady() == clock.now()
        assert broker.read("SELECT boot FROM tidings_clock") == [(boot,)]
        await broker.close()
