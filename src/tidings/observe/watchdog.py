"""Finds out what no exception tells: an event loop that is blocked, a handler that has work and makes no progress.

It runs in a thread beside the event loop that it watches (see `lookout.py`). What it finds turns readiness off until
it is over and is logged once with the stacks. Where somebody starts the process again, or `stall_exit` is set, it ends
the process with exit code 70: at once where the loop or the database is blocked, and after the other handlers have
finished what they had begun where one hangs in a thread. The event that did it has one attempt less.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from tidings.app import App
from tidings.broker import Delivery, Lag
from tidings.cell import START
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, StorageBroken
from tidings.handler import Mode
from tidings.lane import Lane, about
from tidings.observe import stacks
from tidings.worker import Worker

log = logging.getLogger("tidings")

SOFTWARE = 70
"""The exit code: EX_SOFTWARE of sysexits.h."""
BEAT, LEAST = 1.0, 0.05
BLOCKED = 5.0
LOOK = 15.0
SLACK = 0.5
FLUSH = 2.0


def end(code: int) -> None:
    """End the process at once, whatever blocks it; log lines that are waiting are written, if that takes no longer."""
    flushing = threading.Thread(target=logging.shutdown, daemon=True)
    flushing.start()
    flushing.join(FLUSH)
    os._exit(code)


class Pulse:
    """Whether an event loop still turns, as another thread sees it. `beat` is called now and then, there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._asked = self._beaten = clock.monotonic()
        self._answered = True

    def beat(self) -> float:
        """Ask the loop for a sign of life; returns for how many seconds it has owed one."""
        now = self._clock.monotonic()
        paused = now - self._beaten > 2 * BEAT
        self._beaten = now
        if self._answered:
            self._answered = False
            self._asked = now
            self._loop.call_soon_threadsafe(self._answer)
        elif paused:
            self._asked = now  # this thread did not run either: the process was stopped, the loop is not to blame
        return now - self._asked

    def _answer(self) -> None:
        self._answered = True


class Progress:
    """Since when a handler has had something to do and has done nothing of it.

    Two things count as something to do: events in its own hands, which are due within `stall` and its own time limit;
    and events of its group that nobody takes. Those may be waiting for their next try, so they are due only after the
    longest delay that its policy has.
    """

    def __init__(self, worker: Worker, stall: float, now: float) -> None:
        options = worker.bound.options
        self.worker = worker
        alone = START + options.isolate.seconds if options.isolate else 0.0
        self.patience = stall + (options.timeout or 0.0) + (1.0 / options.rate if options.rate else 0.0) + alone
        self.long_patience = self.patience + max(rule.most * (1.0 + rule.jitter) for rule in options.retry.values())
        self._settled = worker.meter.progress
        self._held_since = self._waited_since = now
        self._waiting, self._oldest = 0, 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing was settled since the last look: then how far it is behind is worth asking."""
        return self.worker.meter.progress == self._settled and not self.worker.paused

    def look(self, lags: Sequence[Lag], now: float) -> str | None:
        """What is wrong, if anything; `lags` are those of its topics, where they are known."""
        meter, name = self.worker.meter, self.worker.bound.name
        moved = meter.progress != self._settled
        self._settled = meter.progress
        if moved or not meter.in_flight:
            self._held_since = now
        if moved or self._others_moved(lags, now):
            self._waited_since = now
        if now - self._held_since > self.patience:
            return f"{name} holds {meter.in_flight} events and has settled none for {now - self._held_since:.0f} s"
        if now - self._waited_since > self.long_patience:
            return f"{name}: {self._waiting} events wait and none was settled for {now - self._waited_since:.0f} s"
        return None

    def _others_moved(self, lags: Sequence[Lag], now: float) -> bool:
        """Whether nothing waits, or other members of the group have settled something since the last look."""
        waiting = sum(lag.waiting or 0 for lag in lags)
        oldest = now - max((lag.oldest or 0.0 for lag in lags), default=0.0)
        moved = not waiting or waiting < self._waiting or oldest > self._oldest + SLACK
        self._waiting, self._oldest = waiting, oldest
        return moved


class Watchdog:
    """Watches the event loop that it is made on and the workers there.

    `stall` in seconds: how long there may be a backlog and no progress. `ends`: whether a finding ends the process;
    None: whether it is `supervised`, and only for what can be no mistake: a loop that stays blocked, a handler over its
    time limit that cannot be stopped. `leave` is called, in the watching thread, to end the process in order.
    """

    def __init__(
        self, apps: Sequence[App], clock: Clock, *, stall: float, ends: bool | None = False, supervised: bool = False,
        leave: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._apps = apps
        self._clock = clock
        self._stall = stall
        self._ends_stalled = bool(ends)
        self._ends_hanging = supervised if ends is None else ends
        self._leave = leave
        self._leaving = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._progress: dict[str, Progress] = {}
        self._stalled: list[str] = []
        self._closed = False
        self._blocked = 0.0
        self._said_blocked = False

    @property
    def reasons(self) -> list[str]:
        """Why the process is not ready, as far as the watchdog knows. Safe from any thread."""
        blocked = [f"the event loop has been blocked for {self._blocked:.0f} s"] if self._is_blocked else []
        return [*blocked, *self._stalled, *self._stuck()]

    @property
    def hopeless(self) -> list[str]:
        """Why only a restart will mend it, if that is so."""
        return self.reasons if self._blocked > self._stall or self._closed else []

    @property
    def _is_blocked(self) -> bool:
        return self._blocked > min(BLOCKED, self._stall)

    def _stuck(self) -> list[str]:
        return [f"{worker.bound.name} hangs with event {delivery.record.id}" for worker, delivery in self._hanging()]

    def _hanging(self) -> Iterator[tuple[Worker, Delivery]]:
        for worker, lane in self._lanes():
            if lane.hangs and (delivery := lane.stuck) is not None:
                yield worker, delivery

    def _lanes(self) -> Iterator[tuple[Worker, Lane]]:
        return ((worker, lane) for app in self._apps for worker in app.workers for lane in worker.lanes)

    # -- in the watching thread

    async def watch(self) -> None:
        """Watch, for ever. To be run in another thread than the one that made this."""
        pulse = Pulse(self._loop, self._clock)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_progress(), name="tidings-progress")
            while True:
                self._blocked = pulse.beat()
                self._judge_blocked()
                self._judge_hanging()
                await self._clock.sleep(max(min(BEAT, self._stall / 4), LEAST))

    def _judge_blocked(self) -> None:
        if not self._is_blocked:
            self._said_blocked = False
            return
        worker, delivery = self._at_fault()
        if not self._said_blocked:
            self._said_blocked = True
            log.critical(
                "the event loop is blocked, so nothing else goes on: %s",
                stacks.of_thread(self._thread),
                extra={} if worker is None or delivery is None else about(delivery, worker.bound.name),
            )
        limit = worker.bound.options.timeout if worker is not None else None
        if self._ends_hanging and self._blocked > min(self._stall, max(BLOCKED, limit or self._stall)):
            self._convict(worker, delivery, f"blocked the event loop for {self._blocked:.0f} s")
            self._end("the event loop stays blocked")

    def _at_fault(self) -> tuple[Worker | None, Delivery | None]:
        """The event whose handler blocks the loop: the one in the lane that is the loop's current task."""
        task = asyncio.current_task(self._loop)
        for worker, lane in self._lanes():
            if lane.task is task and task is not None:
                return worker, lane.current
        return None, None

    @staticmethod
    def _convict(worker: Worker | None, delivery: Delivery | None, cause: str) -> None:
        if worker is not None and delivery is not None and worker.inquest is not None:
            worker.inquest.convict(worker.bound.name, delivery, cause)

    def _judge_hanging(self) -> None:
        """End what nothing else can end: at once where all others wait for it, else when these are done."""
        for worker, delivery in self._hanging() if self._ends_hanging else ():
            if worker.bound.mode is Mode.TRANSACTION:
                held = f"held the database for more than its {worker.bound.options.timeout:g} s"
                self._convict(worker, delivery, held)
                self._end(f"{worker.bound.name} {held}")
            elif self._leave is not None and not self._leaving:
                self._leaving = True
                log.critical(
                    "%s hangs: what else has begun is finished, then the process ends, to be started again",
                    worker.bound.name,
                    extra=about(delivery, worker.bound.name),
                )
                self._leave()

    async def _watch_progress(self) -> None:
        while True:
            await self._clock.sleep(max(min(LOOK, self._stall / 4), LEAST))
            looking = asyncio.run_coroutine_threadsafe(self._look(), self._loop)
            self._judge_stalled(await asyncio.wrap_future(looking))

    def _judge_stalled(self, found: list[str]) -> None:
        new = [reason for reason in found if not self._stalled]
        self._stalled = found
        if new:
            log.critical("no progress: %s\n%s", "; ".join(new), stacks.of_all(self._loop))
        if found and self._ends_stalled:
            self._end("there is a backlog and no progress")

    def _end(self, why: str) -> None:
        log.critical("%s: the process ends, to be started again", why)
        end(SOFTWARE)

    # -- on the loop that is watched

    async def _look(self) -> list[str]:
        workers = [(app, worker) for app in self._apps for worker in app.workers]
        found = [await self._look_at(app, worker) for app, worker in workers]
        return [problem for problem in found if problem is not None]

    async def _look_at(self, app: App, worker: Worker) -> str | None:
        name, lags = worker.bound.name, list[Lag]()
        progress = self._progress.get(name)
        if progress is None or progress.worker is not worker:
            progress = self._progress[name] = Progress(worker, self._stall, self._clock.monotonic())
        try:
            for topic in worker.bound.topics if progress.idle else ():
                if app.connection is not None:
                    lags.append(await app.connection.broker.lag(topic, name))
        except (Closed, StorageBroken) as closed:
            self._closed = True
            return f"{name}: {closed}"
        except BrokerError:
            pass  # how far it is behind is unknown just now
        return progress.look(lags, self._clock.monotonic())
