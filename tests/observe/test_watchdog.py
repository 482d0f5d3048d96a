"""What is found out although no exception tells, and what is left alone."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator

import pytest

from tests.observe.waiting import until
from tidings import App, Event, Retry
from tidings.broker import Lag
from tidings.clock import Clock
from tidings.observe import stacks
from tidings.observe.watchdog import Progress, Pulse, Watchdog
from tidings.worker import Worker


class Told(Event, name="thing.told", key="key"):
    key: str


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """One that does not run, of a handler with 10 s for an event: its meter is set by hand."""
    app = App("shop", "memory:")

    @app.on(Told, timeout=10, retry=Retry(most=100, jitter=0))
    async def handle(event: Told) -> None: ...

    async with app:
        await app.start()
        yield app.worker("handle")


async def test_events_in_hand_without_progress_are_noticed_after_the_stall_and_the_time_limit(worker: Worker) -> None:
    progress = Progress(worker, 60.0, 0.0)
    worker.meter.in_flight = 3

    assert progress.look([], 69.0) is None
    assert progress.look([], 71.0) == "shop.handle holds 3 events and has settled none for 71 s"
    worker.meter.progress = 72.0
    assert progress.look([], 73.0) is None
    assert progress.look([], 140.0) is None
    assert progress.look([], 144.0) is not None


async def test_an_idle_handler_is_fine_for_ever_and_its_time_begins_with_its_work(worker: Worker) -> None:
    progress = Progress(worker, 60.0, 0.0)

    assert progress.look([Lag(0, 0.0)], 1e6) is None
    worker.meter.in_flight = 1
    assert progress.look([], 1e6 + 60) is None
    assert progress.look([], 1e6 + 75) is not None


async def test_a_backlog_that_nobody_takes_is_noticed_once_no_retry_can_be_the_reason(worker: Worker) -> None:
    progress = Progress(worker, 60.0, 0.0)

    assert progress.look([Lag(5, 0.0)], 0.0) is None
    assert progress.look([Lag(5, 160.0)], 160.0) is None
    assert progress.look([Lag(7, 171.0)], 171.0) == "shop.handle: 7 events wait and none was settled for 171 s"


async def test_a_backlog_that_other_processes_work_off_is_theirs(worker: Worker) -> None:
    progress = Progress(worker, 60.0, 0.0)
    for now in range(0, 1000, 10):
        assert progress.look([Lag(1000 - now, float(now))], float(now)) is None  # all of one age, ever fewer
    for now in range(1000, 2000, 10):
        assert progress.look([Lag(50, 5.0)], float(now)) is None  # as many as before, ever younger


async def test_a_lag_that_is_unknown_proves_nothing(worker: Worker) -> None:
    progress = Progress(worker, 60.0, 0.0)
    assert progress.look([Lag(None, None)], 1e6) is None


async def test_a_slow_rate_is_no_stall() -> None:
    app = App("shop", "memory:")

    @app.on(Told, timeout=None, rate=0.01, retry=Retry.NEVER)
    async def handle(event: Told) -> None: ...

    async with app:
        await app.start()
        worker = app.worker("handle")
        progress = Progress(worker, 60.0, 0.0)
        worker.meter.in_flight = 1
        assert progress.look([], 159.0) is None
        assert progress.look([], 161.0) is not None


# -- the pulse


class Moved(Clock):
    """A clock that the test moves."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


def test_a_loop_owes_a_sign_of_life_from_when_it_was_asked() -> None:
    clock, loop = Moved(), asyncio.new_event_loop()
    pulse = Pulse(loop, clock)

    def at(now: float) -> float:
        clock.at = now
        return pulse.beat()

    assert [at(0), at(1), at(2)] == [0, 1, 2]
    assert at(60) == 0, "the watching thread itself did not run: the process was stopped"
    assert at(61) == 1
    loop.run_until_complete(asyncio.sleep(0))
    assert [at(62), at(63)] == [0, 1]
    loop.close()


# -- on a running app


class Watched:
    """A watchdog in a thread with a loop of its own, as in production."""

    def __init__(self, app: App, stall: float) -> None:
        self.watchdog = Watchdog([app], Clock(), stall=stall)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run)

    async def __aenter__(self) -> Watchdog:
        self._thread.start()
        return self.watchdog

    async def __aexit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel if self._task else self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    def _run(self) -> None:
        self._task = self._loop.create_task(self.watchdog.watch())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)


async def test_a_handler_that_hangs_is_told_with_the_stacks_until_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    app, go_on = App("shop", "memory:"), asyncio.Event()

    @app.on(Told, timeout=0.1, retry=Retry(at_once=1000))
    async def handle(event: Told) -> None:
        await go_on.wait()

    async with app.running(), Watched(app, 0.2) as watchdog:
        await app.publish(Told(key="a"))
        await until(lambda: watchdog.reasons)
        assert "shop.handle holds 1 events and has settled none" in watchdog.reasons[0]
        assert not watchdog.hopeless
        go_on.set()
        await until(lambda: not watchdog.reasons)

    (said,) = [line.getMessage() for line in caplog.records if line.levelno == logging.CRITICAL]
    assert "no progress: shop.handle holds 1 events" in said
    assert "task shop.handle lane:" in said
    assert "thread MainThread:" in said


async def test_a_blocked_loop_is_told_with_the_event_that_blocks_it(caplog: pytest.LogCaptureFixture) -> None:
    app, seen = App("shop", "memory:"), list[list[str]]()

    @app.on(Told)
    async def handle(event: Told) -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - that is what must be found out
        seen.append(watchdog.reasons)

    async with app.running(), Watched(app, 0.2) as watchdog:
        await app.publish(Told(key="a"), id="id-1")
        await until(lambda: seen)
        assert seen[0][0].startswith("the event loop has been blocked for")
        await until(lambda: not watchdog.reasons)

    (said,) = [line for line in caplog.records if line.levelno == logging.CRITICAL]
    assert vars(said)["event_id"] == "id-1"
    assert vars(said)["handler"] == "shop.handle"
    assert "test_watchdog.py" in said.getMessage()


async def test_a_thread_that_hangs_is_told_until_it_is_back() -> None:
    app, go_on = App("shop", "memory:"), threading.Event()

    @app.on(Told, timeout=0.05)
    def handle(event: Told) -> None:
        go_on.wait(10)

    async with app.running():
        watchdog = Watchdog([app], app.clock, stall=60)
        await app.publish(Told(key="a"), id="id-1")
        await until(lambda: watchdog.reasons)
        assert watchdog.reasons == ["shop.handle hangs with event id-1"]
        go_on.set()
        await until(lambda: not watchdog.reasons)


async def test_a_broker_that_has_closed_itself_is_told() -> None:
    app = App("shop", "memory:")

    @app.on(Told)
    async def handle(event: Told) -> None: ...

    async with app:
        await app.start()
        assert app.connection is not None
        async with Watched(app, 0.1) as watchdog:
            await app.connection.broker.close()
            await until(lambda: watchdog.reasons)
            assert "shop.handle: the broker on" in watchdog.reasons[0]
            assert watchdog.hopeless == watchdog.reasons


# -- stacks


async def test_a_stack_shows_every_coroutine_that_waits_for_another_and_no_values() -> None:
    secret = "payload"

    async def inner(value: str) -> None:
        await asyncio.sleep(60)

    async def outer() -> None:
        await inner(secret)

    task = asyncio.create_task(outer(), name="outermost")
    await asyncio.sleep(0)
    shown = stacks.of_all(asyncio.get_running_loop())
    task.cancel()

    (mine,) = [line for line in shown.splitlines() if line.startswith("task outermost")]
    assert mine.index(" outer") < mine.index(" inner") < mine.index(" sleep")
    assert "payload" not in shown
