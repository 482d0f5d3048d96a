"""What crash runs have found in the engine, each as a small case that fails without its fix."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidings import App, Event, Start
from tidings.broker import Delivery, Record, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database


class Noted(Event, name="note.noted"):
    number: int


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", f"sqlite:{tmp_path / 'tidings.db'}?durable=no")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SqliteBroker]:
    broker = SqliteBroker(Database(tmp_path / "tidings.db", durable=False), Clock())
    await broker.open()
    yield broker
    await broker.close()


def records(*names: str) -> list[Record]:
    """Records whose key is the first letter of their id."""
    return [Record("t", b"{}", key=name[0], type="t.t", id=name) for name in names]


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.record.id for delivery in deliveries]


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """Fetch until so many have come."""
    taken: list[Delivery] = []
    async with asyncio.timeout(5):
        while len(taken) < count:
            taken += await subscription.fetch(count - len(taken), 1.0)
    return taken


async def waiting(app: App, topic: str, handler: str) -> int | None:
    assert app.connection is not None
    return (await app.connection.broker.lag(topic, f"{app.name}.{handler}")).waiting


async def settled(app: App, topic: str, handler: str) -> None:
    """Wait until the handler has nothing left to do."""
    async with asyncio.timeout(10):
        while await waiting(app, topic, handler):
            await asyncio.sleep(0.01)


async def test_a_list_handled_in_the_transaction_is_acknowledged_in_it(app: App) -> None:
    handled: list[int] = []

    @app.on(Noted, start=Start.EARLIEST)
    def note(notes: list[Noted], db: sqlite3.Connection) -> None:
        handled.extend(noted.number for noted in notes)

    async with app.running():
        await app.publish(*(Noted(number=number) for number in range(5)))
        await settled(app, "note", "note")
    assert handled == list(range(5))


async def test_what_is_fetched_while_its_key_is_held_back_comes_later(broker: SqliteBroker) -> None:
    group = await broker.subscribe(["t"], "g", Start.EARLIEST)
    await broker.publish(records("a1", "b1"))
    a1, b1 = await take(group, 2)
    await group.nack([a1], delay=60.0)
    await broker.publish(records("a2", "b2"))
    fetching = asyncio.create_task(group.fetch(10, 0.0))
    await asyncio.sleep(0)  # it puts a2 in line behind a1, which takes a commit
    await group.nack([b1])
    lent = [*await fetching, *await take(group, 1)]
    await group.ack(lent)
    assert ids([*lent, *await take(group, 1)]) == ["b1", "b2"]
