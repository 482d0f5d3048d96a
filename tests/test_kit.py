"""Apps under test: with a clock that the test moves, and nothing faked."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tidings import App, Event, HandlerTimeout, Record, Retry, Tx
from tidings.testing import Kit, TestClock


class Ordered(Event, name="order.created", key="order"):
    order: str
    quantity: int = 1


class Low(Event, name="stock.low", key="sku"):
    sku: str
    left: int


class Told(Event, name="mail.told", key="sku"):
    sku: str


@pytest.fixture
def app() -> App:
    return App("shop")


async def test_what_is_told_leads_to_what_is_heard(app: App) -> None:
    stock = app.table("stock", int)
    other = App("mail")

    @app.on(Ordered)
    async def reserve(ordered: Ordered, tx: Tx) -> AsyncIterator[Low]:
        left = await tx.get(stock, "x", default=10) - ordered.quantity
        tx.put(stock, "x", left)
        if left < 9:
            yield Low(sku="x", left=left)

    @other.on(Low)
    async def tell(low: Low) -> Told:
        return Told(sku=low.sku)

    async with Kit(app, other) as kit:
        await kit.publish(Ordered(order="o1"))
        await kit.settle()
        assert await kit.heard(Low) == []
        await kit.publish(Ordered(order="o1"), Ordered(order="o1"))
        await kit.settle()
        assert await kit.heard(Low) == [Low(sku="x", left=8), Low(sku="x", left=7)]
        assert await kit.heard(Told) == [Told(sku="x")] * 2
        assert await kit.row(stock, "x") == 7
        assert await kit.row(stock, "y") is None


async def test_handlers_in_threads_and_transactions_and_lists(app: App) -> None:
    seen: list[object] = []

    @app.on(Ordered)
    def in_thread(ordered: Ordered) -> Iterator[Told]:
        yield Told(sku=ordered.order)

    @app.on(Ordered)
    def book(ordered: Ordered, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO sales VALUES (?, ?)", (ordered.order, ordered.quantity))

    @app.on(Ordered)
    async def count(orders: list[Ordered]) -> None:
        seen.append(len(orders))

    async with Kit(app) as kit:
        await kit.sql("CREATE TABLE sales (id TEXT, quantity INTEGER)")
        await kit.publish(Ordered(order="o1", quantity=2), Ordered(order="o2", quantity=3))
        await kit.settle()
        assert await kit.sql("SELECT * FROM sales WHERE quantity > ? ORDER BY id", 0) == [("o1", 2), ("o2", 3)]
        assert await kit.heard(Told) == [Told(sku="o1"), Told(sku="o2")]
    assert sum(seen) == 2


async def test_failures_are_raised_together_once(app: App) -> None:
    @app.on(Ordered, retry=Retry.NEVER)
    async def fail(ordered: Ordered) -> None:
        raise ValueError(ordered.order)

    @app.on(Ordered, retry=Retry(times=1, at_once=0))
    def fail_again(ordered: Ordered) -> None:
        raise KeyError(ordered.order)

    async with Kit(app) as kit:
        await kit.publish(Ordered(order="o1"))
        with pytest.raises(ExceptionGroup) as raised:
            await kit.settle()
        errors = {type(error): error for error in raised.value.exceptions}
        assert errors.keys() == {ValueError, KeyError}
        (note,) = errors[ValueError].__notes__
        assert "shop.fail, on order.created" in note
        assert "key 'o1', attempt 1" in note
        await kit.settle()
        await kit.publish(Ordered(order="o2"))
        await kit.settle(failures="keep")
        assert [type(error) for error in kit.failures].count(ValueError) == 2
        await kit.settle()


async def test_an_event_that_mends_itself_at_once_is_no_failure(app: App) -> None:
    tries: list[float] = []

    @app.on(Ordered)
    async def flaky(ordered: Ordered) -> None:
        tries.append(app.clock.now())
        if len(tries) < 3:
            raise ValueError

    async with Kit(app) as kit:
        await kit.publish(Ordered(order="o1"))
        await kit.settle()
    assert [round(at - tries[0], 3) for at in tries] == [0.0, 0.01, 0.05]


async def test_retries_come_when_they_are_due(app: App) -> None:
    tries: list[float] = []

    @app.on(Ordered, retry=Retry(times=3, first=10.0, factor=6.0, at_once=0))
    async def fail(ordered: Ordered) -> None:
        tries.append(app.clock.now())
        raise ValueError("no")

    async with Kit(app) as kit:
        await kit.publish(Ordered(order="o1"))
        await kit.settle(failures="keep")
        await kit.advance(9.9)
        assert len(tries) == 1
        await kit.advance(0.1)
        assert len(tries) == 2
        assert not await kit.dead()
        await kit.advance(86400.0)
        assert [at - tries[0] for at in tries] == [0.0, 10.0, 70.0, 430.0]
        (letter,) = await kit.dead("fail")
        assert (letter.handler, letter.event, letter.attempts) == ("shop.fail", Ordered(order="o1"), 4)
        assert (letter.error, letter.cause, letter.record.key) == ("ValueError", "no", "o1")
        assert await kit.dead("shop.fail") == await kit.dead() == [letter]
        assert await kit.dead("another") == []


async def test_bytes_that_do_not_decode_are_a_dead_letter(app: App) -> None:
    @app.on(Ordered)
    async def never(ordered: Ordered) -> None:
        raise AssertionError

    async with Kit(app) as kit:
        assert app.connection is not None
        await app.connection.broker.publish([Record("order", b"{", "k", "order.created", "r1")])
        await kit.settle(failures="keep")
        (letter,) = await kit.dead()
        assert (letter.event, letter.error) == (None, "DecodeError")


async def test_delayed_events_come_in_order(app: App) -> None:
    heard: list[tuple[str, float]] = []

    @app.on(Ordered)
    async def hear(ordered: Ordered) -> None:
        heard.append((ordered.order, app.clock.now()))

    async with Kit(app) as kit:
        start = kit.clock.now()
        await kit.publish(Ordered(order="later"), delay=7200.0)
        await kit.publish(Ordered(order="sooner"), delay=60.0)
        await kit.settle()
        assert heard == []
        assert await kit.heard(Ordered) == []
        await kit.advance(3 * 86400.0)
        assert [(order, at - start) for order, at in heard] == [("sooner", 60.0), ("later", 7200.0)]
        assert await kit.heard(Ordered) == [Ordered(order="sooner"), Ordered(order="later")]
        assert kit.clock.now() - start == 3 * 86400.0


async def test_a_time_limit_ends_what_hangs(app: App) -> None:
    begun: list[float] = []

    @app.on(Ordered, timeout=30.0, retry=Retry(times=1, first=100.0, at_once=0))
    async def hang(ordered: Ordered) -> None:
        begun.append(app.clock.now())
        await asyncio.Event().wait()

    async with Kit(app) as kit:
        await kit.publish(Ordered(order="o1"))
        await kit.advance(29.0)
        assert not kit.failures
        await kit.advance(2.0)
        with pytest.raises(ExceptionGroup) as raised:
            await kit.settle()
        assert [type(error) for error in raised.value.exceptions] == [HandlerTimeout]
        await kit.advance(200.0)
        assert len(begun) == 2
        (letter,) = await kit.dead()
        assert letter.error == "HandlerTimeout"


async def test_what_is_stuck_is_named(app: App) -> None:
    @app.on(Ordered, timeout=None)
    async def hang(ordered: Ordered) -> None:
        await asyncio.Event().wait()

    async with Kit(app, patience=2.0) as kit:
        await kit.publish(Ordered(order="o1"), Ordered(order="o1"))
        with pytest.raises(
            AssertionError, match=r"2 to do for shop\.hang; shop\.hang is handling order\.created .*'o1'"
        ):
            await kit.settle()
        await kit.advance(86400.0)


async def test_a_handler_may_wait_for_the_clock(app: App) -> None:
    woken: list[float] = []

    @app.on(Ordered, timeout=None)
    async def sleep(ordered: Ordered) -> None:
        await app.clock.sleep(5.0)
        woken.append(app.clock.now())

    async with Kit(app) as kit:
        start = kit.clock.now()
        await kit.publish(Ordered(order="o1"))
        await kit.advance(60.0)
        await kit.settle()
    assert woken == [start + 5.0]


async def test_a_rate_limit_does_not_hold_up_the_test(app: App) -> None:
    handled: list[float] = []

    @app.on(Ordered, rate=10.0)
    async def slow(ordered: Ordered) -> None:
        handled.append(app.clock.now())

    async with Kit(app) as kit:
        await kit.publish(*(Ordered(order=f"o{number}") for number in range(50)))
        await kit.settle()
    assert len(handled) == 50
    assert 3.0 < handled[-1] - handled[0] < 6.0


async def test_a_paused_handler_is_not_waited_for(app: App) -> None:
    heard: list[str] = []

    @app.on(Ordered)
    async def hear(ordered: Ordered) -> None:
        heard.append(ordered.order)

    async with Kit(app) as kit:
        await kit.publish(Ordered(order="o1"))
        await kit.settle()
        app.worker("hear").pause()
        await kit.advance(10.0)  # what it was fetching is over
        await kit.publish(Ordered(order="o2"))
        await kit.settle()
        app.worker("hear").resume()
        await kit.settle()
    assert heard == ["o1", "o2"]


async def test_an_app_can_be_used_again(app: App) -> None:
    clock = app.clock
    lives: list[str] = []

    class Mailer:
        pass

    async def mailer() -> AsyncIterator[Mailer]:
        lives.append("opened")
        yield Mailer()
        lives.append("closed")

    app.provide(mailer)
    table = app.table("orders", int)

    @app.on(Ordered)
    async def keep(ordered: Ordered, tx: Tx, mailer: Mailer) -> None:
        tx.put(table, "count", await tx.get(table, "count", 0) + 1)

    for _ in range(2):
        async with Kit(app) as kit:
            assert app.clock is kit.clock
            await kit.publish(Ordered(order="o1"))
            await kit.settle()
            assert await kit.row(table, "count") == 1
        assert app.clock is clock
        assert app.connection is None
    assert lives == ["opened", "closed"] * 2


async def test_a_file_outlives_its_kit(app: App, tmp_path: Path) -> None:
    heard: list[str] = []

    @app.on(Ordered)
    async def hear(ordered: Ordered) -> None:
        heard.append(ordered.order)

    for _ in range(2):
        async with Kit(app, broker=f"sqlite:{tmp_path / 'kit.db'}") as kit:
            await kit.publish(Ordered(order=f"o{len(heard)}"))
            await kit.settle()
            assert len(await kit.heard(Ordered)) == len(heard)
    assert heard == ["o0", "o1"]


async def test_an_app_that_runs_already_is_refused(app: App) -> None:
    async with Kit(app):
        with pytest.raises(AssertionError, match="'shop' is running already"):
            async with Kit(app):
                pass
        assert app.connection is not None


async def test_a_kit_is_left_at_once_whatever_goes_on(app: App) -> None:
    cancelled: list[bool] = []

    @app.on(Ordered)
    async def hang(ordered: Ordered) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async with Kit(app) as kit:
        await kit.publish(Ordered(order="o1"))
        await kit.advance(0.0)
    assert cancelled


async def test_a_kit_that_is_left_before_its_workers_began_ends(app: App) -> None:
    @app.on(Ordered)
    def never(ordered: Ordered) -> None:
        raise AssertionError

    with pytest.raises(ZeroDivisionError):
        async with Kit(app):
            raise ZeroDivisionError
    async with Kit(app):
        pass


async def test_time_stands_still_and_ids_differ(app: App) -> None:
    async with Kit(app) as kit:
        start = app.clock.now()
        await kit.publish(*(Ordered(order="o1") for _ in range(10_000)))
        await kit.settle()
        assert len(await kit.heard(Ordered)) == 10_000
        assert app.clock.now() == start


async def test_sleepers_wake_in_order_each_at_its_time() -> None:
    clock = TestClock()
    start = clock.now()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, *seconds: float) -> None:
        for each in seconds:
            await clock.sleep(each)
            woken.append((name, clock.now() - start))

    async with asyncio.TaskGroup() as group:
        for name, seconds in {"a": (1.0, 2.0), "b": (2.0, 0.0, 5.0), "c": (10.0,)}.items():
            group.create_task(sleep(name, *seconds))
        await asyncio.sleep(0)
        await clock.advance(3.0)
        assert woken == [("a", 1.0), ("b", 2.0), ("b", 2.0), ("a", 3.0)]
        assert clock.due == clock.alarm == start + 7.0
        await clock.advance(60.0)
    assert woken[4:] == [("b", 7.0), ("c", 10.0)]
    assert clock.due is None


async def test_a_wait_ends_with_its_event_or_its_time() -> None:
    clock, event = TestClock(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first, second = (group.create_task(clock.wait(event, seconds)) for seconds in (5.0, 50.0))
        await asyncio.sleep(0)
        assert clock.alarm is None
        await clock.advance(6.0)
        event.set()
    assert (first.result(), second.result()) == (False, True)
    assert clock.due is None


def test_the_kit_needs_no_test_framework() -> None:
    program = "import sys, tidings.testing, tidings.testing.contract; print('pytest' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )


async def test_a_kit_costs_little(app: App) -> None:
    """A generous bound, so that only something that waits for real time breaks it."""

    @app.on(Ordered, retry=Retry(first=60.0, at_once=2))
    async def fail(ordered: Ordered) -> None:
        raise ValueError

    began = time.monotonic()
    async with Kit(app) as kit:
        await kit.publish(Ordered(order="o1"))
        await kit.settle(failures="keep")
        await kit.advance(86400.0)
        assert len(await kit.dead()) == 1
    assert time.monotonic() - began < 2.0
