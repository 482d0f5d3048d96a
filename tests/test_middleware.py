"""A middleware runs around every handler, wherever that runs."""

import asyncio
import sqlite3
from typing import Any

import pytest

from tidings import App, Event, Retry
from tidings.broker import Delivery
from tidings.lane import current
from tidings.middleware import Next


class Told(Event, name="thing.told", key="key"):
    key: str


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a condition of any kind
            await asyncio.sleep(0.01)


@pytest.fixture
def app() -> App:
    return App("shop", "memory:")


def handlers(app: App, seen: list[str]) -> None:
    """One handler of each kind; each says in which lane it thinks that it is."""

    def say(name: str) -> None:
        lane = current.get()
        seen.append(f"{name} in {lane.desk.bound.name if lane else None}")

    @app.on(Told, name="on_loop")
    async def on_loop(event: Told) -> None:
        say("on_loop")

    @app.on(Told, name="in_thread")
    def in_thread(event: Told) -> None:
        say("in_thread")

    @app.on(Told, name="in_transaction")
    def in_transaction(event: Told, db: sqlite3.Connection) -> None:
        say("in_transaction")

    @app.on(Told, name="in_batch")
    def in_batch(events: list[Told]) -> None:
        say("in_batch")


async def test_a_middleware_runs_around_handlers_of_every_kind(app: App) -> None:
    around: list[str] = []
    seen: list[str] = []
    handlers(app, seen)

    @app.middleware
    async def outer(delivery: Delivery, call_next: Next) -> Any:
        around.append("outer before")
        result = await call_next()
        around.append("outer after")
        return result

    @app.middleware
    async def inner(delivery: Delivery, call_next: Next) -> Any:
        around.append("inner")
        return await call_next()

    async with app.running():
        await app.publish(Told(key="a"))
        await until(lambda: len(around) == 12)

    assert sorted(seen) == sorted(
        f"{name} in shop.{name}" for name in ("on_loop", "in_thread", "in_transaction", "in_batch")
    )
    assert around.count("outer before") == around.count("outer after") == around.count("inner") == 4


async def test_handlers_in_threads_know_their_lane_without_middleware(app: App) -> None:
    seen: list[str] = []
    handlers(app, seen)

    async with app.running():
        await app.publish(Told(key="a"))
        await until(lambda: len(seen) == 4)

    assert sorted(seen) == sorted(
        f"{name} in shop.{name}" for name in ("on_loop", "in_thread", "in_transaction", "in_batch")
    )


async def test_a_middleware_cannot_wait_around_a_def_handler(app: App) -> None:
    @app.on(Told, retry=Retry.NEVER)
    def handle(event: Told) -> None:
        raise AssertionError("never reached")

    @app.middleware
    async def waits(delivery: Delivery, call_next: Next) -> Any:
        await asyncio.sleep(0)
        return await call_next()

    async with app.running():
        await app.publish(Told(key="a"))
        meter = app.worker("handle").meter
        await until(lambda: meter.handled)

    assert meter.dead == {"HandlerError": 1}


async def test_what_the_program_publishes_is_counted_by_type(app: App) -> None:
    async with app:
        await app.publish(Told(key="a"), Told(key="b"))
        async with app.transaction() as transaction:
            transaction.publish(Told(key="c"))

    assert app.published == {"thing.told": 3}
