"""The only loop: fetch, handle, settle.

One worker runs one handler. Its feeder fetches what there is room for. Its lanes take turns, one event of a key at a
time, so that a key stays in order while others go on beside it. Its settler takes whatever the lanes have finished
since the last commit and commits it at once: state, messages and acknowledgement, all or nothing. Its guard interrupts
what takes too long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from tidings import dead, failpoint
from tidings.broker import Broker, Delivery, Subscription
from tidings.cell import Cell
from tidings.chunk import LoopListLane
from tidings.clock import Clock
from tidings.codec import Codec, Reader
from tidings.desk import Outcome
from tidings.errors import BrokerError, Closed, Conflict, Fenced, HandlerTimeout, StorageBroken
from tidings.handler import Bound, Mode
from tidings.inline import LoopLane
from tidings.inquest import Inquest
from tidings.lane import STORAGE_PAUSE, Lane, about, same_key
from tidings.meter import Meter
from tidings.middleware import Middleware, chain
from tidings.store import Store
from tidings.threaded import ThreadLane, TransactionLane
from tidings.turns import Turns

log = logging.getLogger("tidings")

MOST = 1024
LEAST = 2
SLOW = 1.0
FETCH_WAIT = 5.0
PACE = 0.01
"""Seconds between two commits that hold nothing but acknowledgements: publishers wait for the fsync of each."""
LEAVING = 2.0
"""Seconds between the end of a drain and that of the process, in which what hangs in a thread still runs."""


class Worker:
    """Runs one handler until it is drained."""

    def __init__(
        self, bound: Bound, *, broker: Broker, store: Store, codec: Codec, clock: Clock,
        middleware: Sequence[Middleware] = (),
    ) -> None:  # fmt: skip
        self.bound = bound
        self.store = store
        self.codec = codec
        self.clock = clock
        self.meter = Meter()
        self.reader = Reader(bound.types)
        self.call = chain(middleware, bound.call, in_thread=bound.mode is not Mode.LOOP)
        self.plain = None if middleware else bound.plain
        self.threads = ThreadPoolExecutor(bound.concurrency, bound.name) if bound.mode is Mode.THREAD else None
        self.turns = Turns()
        self.idle: list[Lane] = []
        self.lanes: list[Lane] = []  # those that were needed so far
        self.watcher: Callable[[Delivery, BaseException], None] | None = None  # is told of what the lanes give up
        self.inquest: Inquest | None = None  # where somebody sees how this process ends
        self.cell: Cell | None = None  # where an event is tried alone
        self._broker = broker
        self._subscription: Subscription | None = None
        self.done: list[Delivery] = []
        self.outcomes: list[Outcome] = []
        self.have = asyncio.Event()
        self._room = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()
        self._stopping = False
        self._least = max(2 * bound.concurrency, LEAST, bound.options.batch if bound.takes_list else 0)
        self._most = max(MOST if bound.mode is Mode.TRANSACTION else 4 * MOST, self._least)
        self._capacity = self._least
        self._settling = False
        self._busy_since = self._settled_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._start: Callable[[Lane], asyncio.Task[None]]
        self._tokens = 1.0
        self._filled = clock.monotonic()
        self._throttled: float | None = None
        self._drained = asyncio.Event()

    async def open(self) -> None:
        """Join the group. What is published from here on is heard."""
        topics = [*self.bound.topics, dead.replay_topic_of(self.bound.name)]
        for topic in self.bound.topics:
            await self._broker.declare(topic, [self.bound.name], self.bound.options.start)
        await dead.declare(self._broker, self.bound.name)
        self._subscription = await self._broker.subscribe(topics, self.bound.name, self.bound.options.start)

    async def run(self) -> None:
        """Work until `drain`. Raises what killed one of its tasks."""
        self.meter.progress = self.clock.monotonic()
        try:
            if self._drained.is_set():  # before this had its first turn: nobody would tell its tasks to end
                return
            async with asyncio.TaskGroup() as group:
                context = copy_context()  # what a handler sets in that of its lane, the next one does not see
                self._start = lambda lane: group.create_task(
                    lane.work(), name=f"{self.bound.name} lane", context=context.copy()
                )
                self._tasks = [group.create_task(run(), name=f"{self.bound.name} {run.__name__}")
                               for run in (self._feed, self._settle_finished, self._watch)]  # fmt: skip
        except* asyncio.CancelledError:
            raise
        finally:
            if self.threads is not None:
                self.threads.shutdown(wait=False, cancel_futures=True)

    async def drain(self, grace: float) -> bool:
        """Fetch no more, wait at most `grace` seconds for what is being handled, settle it, hand back the rest.

        True where nothing had to be given up. What is given up is not acknowledged: it is lent again.
        """
        self._stopping = True
        self.turns.stop()
        self._room.set()
        self._running.set()
        await self._until_idle(grace)
        if hanging := [lane for lane in self.lanes if lane.hangs]:
            await self._give_back(hanging)
        failpoint.hit("draining")
        clean = not self._busy and not hanging
        self._drained.set()
        for task in self._tasks:
            task.cancel()
        if self._subscription is not None:
            await self._subscription.close()
        return clean

    async def _until_idle(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        while self._busy and (left := until - self.clock.monotonic()) > 0:
            self._room.clear()
            await self.clock.wait(self._room, min(left, 0.05))

    async def _give_back(self, hanging: Sequence[Lane]) -> None:
        """What hangs has failed like anything else that is over its time limit: the process is all that can end it."""
        error = HandlerTimeout(f"{self.bound.name} took longer than its {self.bound.options.timeout:g} s, and hangs")
        try:
            async with asyncio.timeout(LEAVING):
                for lane in hanging:
                    if lane.stuck is not None:
                        await lane.failed(lane.stuck, error)
        except TimeoutError:
            log.warning("%s could not give back what hangs", self.bound.name)
        await self._until_idle(LEAVING)

    @property
    def _busy(self) -> bool:
        return bool(self.done or self.outcomes or self._settling) or any(
            lane.current is not None and not lane.hangs for lane in self.lanes
        )

    def pause(self) -> None:
        """Fetch no more until `resume`; the group keeps its position."""
        self._running.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running.set()
        self.meter.progress = self.clock.monotonic()

    @property
    def paused(self) -> bool:
        """Whether it was paused."""
        return not self._running.is_set()

    # -- fetch

    async def _feed(self) -> None:
        assert self._subscription is not None
        while not self._stopping:
            await self._running.wait()
            room = min(self._capacity - self.meter.in_flight, MOST)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            room = min(room, await self._allowed())
            try:
                deliveries = await self._subscription.fetch(room, FETCH_WAIT)
            except Fenced as fenced:
                self._reset(fenced)
                continue
            except Closed:
                if self._stopping:
                    return
                raise
            except StorageBroken:
                raise
            except BrokerError as error:
                log.warning("%s cannot fetch: %s", self.bound.name, error)
                await self.clock.sleep(STORAGE_PAUSE)
                continue
            if self._stopping:
                return
            if deliveries:
                failpoint.hit("lent")
                self._spend(len(deliveries))
                self._deal(deliveries)
                await self.clock.sleep(0)

    def _deal(self, deliveries: Sequence[Delivery]) -> None:
        """Put these in line; lanes that rest are called one by one, as long as there is more."""
        if not self.meter.in_flight:
            self.meter.progress = self._busy_since = self.clock.monotonic()
        self.meter.in_flight += len(deliveries)
        self.turns.add(deliveries)
        self.call_lane()

    def call_lane(self) -> None:
        """Wake a lane that rests, if any, or begin another one, as long as there may be more."""
        if self.idle:
            self.idle.pop().wake.set()
        elif len(self.lanes) < self.bound.concurrency and not self.turns.stopped:
            lane = _lane(self)
            self.lanes.append(lane)
            lane.task = self._start(lane)
            self._tasks.append(lane.task)

    async def _allowed(self) -> int:
        """How many the rate limit allows just now, at least 1 after a wait."""
        rate = self.bound.options.rate
        if rate is None:
            return MOST
        now = self.clock.monotonic()
        self._tokens = min(self._tokens + (now - self._filled) * rate, max(rate, 1.0))
        self._filled = now
        if self._tokens < 1:
            wait = max((1 - self._tokens) / rate, 0.001)  # less may be lost in rounding, and never be over
            self._throttled = now + wait
            await self.clock.sleep(wait)
            self._throttled = None
            return await self._allowed()
        return int(self._tokens)

    def _spend(self, count: int) -> None:
        if self.bound.options.rate is not None:
            self._tokens -= count

    def _adapt(self, count: int) -> None:
        """Lend no more than is handled in about a second, so that little is in doubt when the process dies."""
        now = self.clock.monotonic()
        rate = count / max(now - self._busy_since, 1e-4)
        self._busy_since = self._settled_at = now
        wanted = max(int(rate * SLOW), self._least)
        self._capacity = min(max(wanted, self._capacity // 2), self._most)

    @property
    def paused_until(self) -> float | None:
        """Until when, on the monotonic clock, something waits for its next try or for the rate; None where nothing."""
        pauses = [self._throttled, *(lane.paused for lane in self.lanes)]
        return min((until for until in pauses if until is not None), default=None)

    # -- settle

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """A lane has handled these; those with neither writes nor messages need no more than an acknowledgement."""
        failpoint.hit("handled")
        for outcome in outcomes:
            if outcome.tx is None and not outcome.records:
                self.done.append(outcome.delivery)
            else:
                self.outcomes.append(outcome)
        self.have.set()

    def dropped(self, count: int) -> None:
        """These are no longer this worker's: handed back, or withdrawn by the broker."""
        self.meter.in_flight -= count
        self._room.set()

    async def _settle_finished(self) -> None:
        while True:
            if not self.outcomes and not self.done:
                self.have.clear()
                await self.have.wait()
            await self._pace()
            done, batch = self.done.copy(), self.outcomes.copy()
            self.done.clear()
            self.outcomes.clear()
            self._settling = True
            await self._commit(done, batch)
            self._settling = False

    async def _pace(self) -> None:
        """Wait a moment where nothing waits for the next commit: neither what was published nor the feeder."""
        until = self._settled_at + PACE
        while not self.outcomes and self.meter.in_flight < self._capacity and not self._stopping:
            self.have.clear()
            if not await self.clock.linger(self.have, until - self.clock.monotonic()):
                return

    async def _commit(self, done: list[Delivery], batch: list[Outcome]) -> None:
        """Settle these, however long the storage takes; what conflicts is handled again."""
        while done or batch:
            deliveries = done + [outcome.delivery for outcome in batch] if batch else done
            try:
                await self._commit_once(deliveries, batch)
            except Conflict as conflict:
                batch = self._rerun(batch, conflict)
            except Fenced as fenced:
                self._discard(batch)
                self._reset(fenced)
                return
            except (StorageBroken, Closed):
                raise
            except BrokerError as error:
                log.warning("%s waits for its database: %s", self.bound.name, error)
                await self.clock.sleep(STORAGE_PAUSE)
            else:
                self._settled(deliveries)
                return

    async def _commit_once(self, deliveries: Sequence[Delivery], batch: Sequence[Outcome]) -> None:
        assert self._subscription is not None
        unit = self.store.unit()
        txs = [outcome.tx for outcome in batch if outcome.tx is not None]
        records = [record for outcome in batch for record in outcome.records]
        if txs:
            unit.join(txs)
        if records:
            await self._broker.publish(records, tx=unit)
        await self._subscription.ack(deliveries, tx=unit)
        failpoint.hit("settling")
        try:
            await unit.commit()
        except Conflict as conflict:
            conflict.args = (*conflict.args, {id(tx) for tx in unit.conflicts})
            raise

    async def settle(self, run: Callable[[Any], None], done: list[Outcome]) -> None:
        """Run a chunk in the transaction that settles it: `run` fills `done` there. Raises what the commit raised."""
        assert self._subscription is not None
        unit = self.store.unit()
        records: list[Any] = []
        deliveries: list[Delivery] = []

        def handle(connection: Any) -> None:
            done.clear()
            run(connection)
            records[:] = [record for outcome in done for record in outcome.records]
            deliveries[:] = [outcome.delivery for outcome in done]

        unit.add(handle)
        await self._broker.publish(records, tx=unit)
        await self._subscription.ack(deliveries, tx=unit)
        await unit.commit()
        self._settled(deliveries)

    def _settled(self, deliveries: Sequence[Delivery]) -> None:
        now = self.clock.now()
        self.meter.latency.observe_all([now - delivery.record.time for delivery in deliveries])
        self.meter.handled += len(deliveries)
        self._adapt(len(deliveries))
        self.meter.progress = self.clock.monotonic()
        self.dropped(len(deliveries))

    async def hand_back(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Nack, however long the storage takes."""
        assert self._subscription is not None
        if self._stopping:  # what hangs in a thread must not be begun elsewhere before this process has ended
            delay = max(delay, LEAVING)
        while True:
            try:
                await self._subscription.nack(deliveries, delay)
            except (Fenced, Closed):
                return
            except StorageBroken:
                raise
            except BrokerError as error:
                log.warning("%s waits for its database: %s", self.bound.name, error)
                await self.clock.sleep(STORAGE_PAUSE)
            else:
                self.meter.progress = self.clock.monotonic()
                return

    def _rerun(self, batch: Sequence[Outcome], conflict: Conflict) -> list[Outcome]:
        """Another process has changed what some have read: handle them and what came after of their keys again."""
        conflicting: set[int] = conflict.args[-1]
        keys: set[str | None] = set()
        keep: list[Outcome] = []
        again: list[Outcome] = []
        for outcome in (*batch, *self.outcomes):
            key = outcome.delivery.record.key
            if id(outcome.tx) in conflicting or (key is not None and key in keys):
                keys.add(key)
                again.append(outcome)
            else:
                keep.append(outcome)
        self._discard(again)
        later = {id(outcome) for outcome in self.outcomes}
        self.outcomes[:] = [outcome for outcome in keep if id(outcome) in later]
        for outcome in reversed(again):
            self._again(outcome.delivery)
        self.call_lane()
        return [outcome for outcome in keep if id(outcome) not in later]

    def _again(self, delivery: Delivery) -> None:
        """Handle it before all others; what is being handled of its key just now has to come after it."""
        busy = self.turns.again(delivery)
        for lane in self.lanes:
            if lane.current is not None and (self.bound.takes_list or (busy and same_key(lane.current, delivery))):
                lane.behind += 1

    def _discard(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.tx is not None:
                self.store.discard(outcome.tx)

    def _reset(self, fenced: Fenced) -> None:
        """The lease was lost: nothing that was lent is ours any more."""
        log.warning("%s: %s", self.bound.name, fenced)
        self._discard(self.outcomes)
        self.turns.clear()
        for lane in self.lanes:
            lane.interrupt(fenced)
        self.done.clear()
        self.outcomes.clear()
        self.meter.in_flight = sum(lane.holding for lane in self.lanes)
        self._room.set()

    # -- watch

    async def _watch(self) -> None:
        """One timer for all lanes: interrupt what is over its time limit."""
        limit = self.bound.options.timeout
        while not await self.clock.wait(self._drained, 1.0 if limit is None else min(max(limit / 4, 0.01), 1.0)):
            if limit is None:
                continue
            now = self.clock.monotonic()
            for lane in self.lanes:
                delivery = lane.current
                if delivery is not None and now - lane.started > limit:
                    self._overdue(lane, delivery, limit)

    def _overdue(self, lane: Lane, delivery: Delivery, limit: float) -> None:
        """A thread cannot be stopped, nor a handler that ignores it: say so, and let the watchdog decide."""
        name, thread = self.bound.name, self.bound.mode is not Mode.LOOP
        if not thread and self.clock.monotonic() - lane.started < 2 * limit + SLOW:
            lane.interrupt(HandlerTimeout(f"{name} took longer than its {limit:g} s"))
        elif lane.stuck is not delivery:
            lane.stuck = delivery
            how = "in a thread" if thread else "and ignores that it is cancelled"
            log.error("%s hangs %s, for more than its %g s", name, how, limit, extra=about(delivery, name))


def _lane(worker: Worker) -> Lane:
    if worker.bound.mode is Mode.TRANSACTION:
        return TransactionLane(worker)
    if worker.bound.mode is Mode.THREAD:
        return ThreadLane(worker)
    return LoopListLane(worker) if worker.bound.takes_list else LoopLane(worker)


async def join_all(workers: Iterable[Worker]) -> None:
    """Open these beside each other: a server takes its time for each. Raises what the first that failed has raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.open(), name=f"{worker.bound.name} joins")
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
