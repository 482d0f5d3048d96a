"""What crash runs have found in the engine, each as a small case that fails without its fix."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tidings import App, Event, Start


class Noted(Event, name="note.noted"):
    number: int


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", f"sqlite:{tmp_path / 'tidings.db'}?durable=no")


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
