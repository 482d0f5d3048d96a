"""What a handler raises that is no Exception is a failure of its event all the same, and never ends its lane."""

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import settled, url
from tidings import App, Event, Retry, Start, Tx, dead

SOON = Retry(times=1, first=0.01, at_once=1)
TRIES = 4


class Told(Event, name="thing.told", key="key"):
    key: str


class Odd(BaseException):
    """As libraries have, such as gevent's Timeout."""


def leave() -> None:
    sys.exit(3)


def odd() -> None:
    raise Odd("very")


def cancelled() -> None:
    raise asyncio.CancelledError


WAYS = [leave, odd, cancelled]


def on_loop(app: App, escape: Callable[[str], None]) -> None:
    @app.on(Told, retry=SOON)
    async def handle(event: Told) -> None:
        escape(event.key)


def with_tx(app: App, escape: Callable[[str], None]) -> None:
    @app.on(Told, retry=SOON)
    async def handle(event: Told, tx: Tx) -> None:
        escape(event.key)


def in_thread(app: App, escape: Callable[[str], None]) -> None:
    @app.on(Told, retry=SOON)
    def handle(event: Told) -> None:
        escape(event.key)


def in_transaction(app: App, escape: Callable[[str], None]) -> None:
    @app.on(Told, retry=SOON)
    def handle(event: Told, db: sqlite3.Connection) -> None:
        escape(event.key)


def list_on_loop(app: App, escape: Callable[[str], None]) -> None:
    @app.on(Told, retry=SOON)
    async def handle(events: list[Told]) -> None:
        for event in events:
            escape(event.key)


def list_in_transaction(app: App, escape: Callable[[str], None]) -> None:
    @app.on(Told, retry=SOON)
    def handle(events: list[Told], db: sqlite3.Connection) -> None:
        for event in events:
            escape(event.key)


FORMS = [on_loop, with_tx, in_thread, in_transaction, list_on_loop, list_in_transaction]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_an_escape_is_a_failure(tmp_path: Path, form: Callable[..., None], way: Callable[[], None]) -> None:
    app, tries, others = App("shop", url(tmp_path)), list[str](), set[str]()

    def escape(key: str) -> None:
        if key.startswith("odd"):
            tries.append(key)
            way()
        others.add(key)

    form(app, escape)
    async with app.running():
        for number in range(3):
            await app.publish(Told(key=f"odd {number}"), *(Told(key=f"{number}.{n}") for n in range(5)))
        await settled(app)
        view = await app.connection.broker.subscribe([dead.topic_of("shop.handle")], None, Start.EARLIEST)  # type: ignore[union-attr]
        letters = [delivery.record for delivery in await view.fetch(10, 0.0)]
        (worker,) = app.workers
        assert all(lane.task is not None and not lane.task.done() for lane in worker.lanes)
    assert sorted(letter.key or "" for letter in letters) == ["odd 0", "odd 1", "odd 2"]
    assert {letter.headers["deaderror"] for letter in letters} == {"HandlerError"}
    assert {letter.headers["deadattempts"] for letter in letters} == {"2"}
    assert len(others) == 15
    assert len(tries) >= 3 * TRIES
