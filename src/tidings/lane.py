"""A lane handles the events of its keys one after another; a handler has as many lanes as it may do things at once.

Three kinds, by where the handler runs: `async def` inline on the event loop (an event costs an awaited call and no
task), `def` in a thread (one hop a chunk), `def` with a database connection inside the transaction that settles it.
What came of an event is an `Outcome` for the worker to commit; what failed is tried again in the lane, then handed
back with a delay, then buried.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from tidings import dead
from tidings.broker import Delivery, Record
from tidings.clock import Clock
from tidings.codec import Codec, Reader
from tidings.errors import (
    AttemptsExhausted,
    Conflict,
    DecodeError,
    Fenced,
    ItemsFailed,
    StorageBroken,
    StorageError,
    TransactionEnded,
    UnknownType,
)
from tidings.handler import Bound
from tidings.meter import Meter
from tidings.retry import rule_for
from tidings.store import Store, Tx

log = logging.getLogger("tidings")

CHUNK = 100
HOLD = 0.025
STORAGE_PAUSE = 0.5

current: ContextVar[Lane | None] = ContextVar("tidings_lane", default=None)
"""The lane in which code runs, set once a lane: from it, what is published or logged learns its cause."""


class Outcome(NamedTuple):
    """An event that has been handled, not yet settled: what it wrote and what it publishes."""

    delivery: Delivery
    tx: Tx | None
    records: Sequence[Record]


class Desk(Protocol):
    """What a lane needs of its worker."""

    bound: Bound
    store: Store
    codec: Codec
    clock: Clock
    meter: Meter
    reader: Reader
    call: Callable[[Any, Delivery, Any], Any]
    threads: ThreadPoolExecutor | None

    def finished(self, outcomes: Sequence[Outcome]) -> None: ...
    def dropped(self, count: int) -> None: ...
    async def hand_back(self, deliveries: Sequence[Delivery], delay: float) -> None: ...
    async def settle(self, run: Callable[[Any], None], done: list[Outcome]) -> None: ...


class Lane:
    """One sequence of events. `interrupt` cancels what it handles just now."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.queue: deque[Delivery] = deque()
        self.wake = asyncio.Event()
        self.current: Delivery | None = None
        self.started = 0.0
        self.task: asyncio.Task[None] | None = None
        self._interrupted: Exception | None = None
        self._before_current = 0  # how many of the key of `current` have to be handled before it after all

    async def work(self) -> None:
        """Handle what is in the queue, for ever."""
        current.set(self)
        while True:
            if not self.queue:
                self.current = None
                self.wake.clear()
                await self.wake.wait()
                continue
            await self.step()

    async def step(self) -> None:
        """Handle the next event or chunk."""
        raise NotImplementedError

    def interrupt(self, why: Exception) -> None:
        """Cancel what is being handled; it fails with `why`, or is dropped where that is Fenced."""
        if self.current is not None and self._interrupted is None and self.task is not None:
            self._interrupted = why
            self.task.cancel()

    def handle_again(self, delivery: Delivery) -> None:
        """Put an event in front; what is being handled of its key just now comes after it."""
        self.queue.appendleft(delivery)
        if self.current is not None and _same_key(self.current, delivery):
            self._before_current += 1
        self.wake.set()

    def _overtaken(self, delivery: Delivery) -> bool:
        """Whether what was just handled has to come after others of its key: then it is put behind them."""
        behind, self._before_current = self._before_current, 0
        if not behind:
            return False
        for index, waiting in enumerate(self.queue):
            behind -= _same_key(waiting, delivery)
            if not behind:
                self.queue.insert(index + 1, delivery)
                break
        return True

    def _interruption(self, cancelled: asyncio.CancelledError) -> Exception:
        """Why it was cancelled; raises again where that was not by `interrupt`."""
        why, self._interrupted = self._interrupted, None
        if why is None or self.task is None:
            raise cancelled
        self.task.uncancel()
        return why

    # -- before the handler

    def message(self, delivery: Delivery) -> Any:
        """What the handler is given. Raises DecodeError or AttemptsExhausted."""
        desk, record = self.desk, delivery.record
        if delivery.attempt > 1:
            rules = desk.bound.options.retry.values()
            if all(rule.exhausted(delivery.attempt) for rule in rules):
                raise AttemptsExhausted(
                    f"lent {delivery.attempt - 1} times without an outcome: its handler killed or lost its worker each time"
                )
        return record if desk.bound.takes_record else desk.reader.decode(record)

    def skips(self, record: Record) -> bool:
        """Whether it is a sibling on the topic that the handler did not ask for. Raises UnknownType for a stranger."""
        bound = self.desk.bound
        if record.type in bound.types or (bound.takes_record and not bound.types):
            return False
        topic = record.headers.get(dead.ORIGIN_TOPIC, record.topic)
        if record.type.startswith(topic + ".") or self.desk.codec.knows(record.type):
            return True
        raise UnknownType(f"type {record.type!r} does not belong on topic {topic!r}")

    # -- after the handler

    def records(self, result: Any, delivery: Delivery) -> list[Record]:
        """What the handler returned, encoded, with the event as its cause."""
        desk = self.desk
        records = [desk.codec.encode(message, delivery.record) for message in desk.bound.outputs(result)]
        for record in records:
            desk.meter.published[record.type] += 1
        return records

    async def failed(self, delivery: Delivery, error: BaseException) -> None:
        """After the tries in the lane: hand the event back with a delay, or bury it."""
        desk = self.desk
        if isinstance(error, Fenced):
            desk.dropped(1)
            return
        rule = rule_for(desk.bound.options.retry, error)
        delay = rule.delay(delivery.attempt, desk.clock.random())
        if delay is None:
            desk.meter.dead[type(error).__name__] += 1
            self._tell(logging.ERROR, "%s gave up: %s", delivery, error)
            desk.finished([Outcome(delivery, None, [dead.bury(delivery, desk.bound.name, error, desk.clock)])])
            return
        desk.meter.retried += 1
        self._tell(logging.WARNING, f"%s failed and is tried again in {delay:.1f} s: %s", delivery, error)
        self.withdraw(delivery)
        await desk.hand_back([delivery], delay)
        desk.dropped(1)

    def _tell(self, level: int, text: str, delivery: Delivery, error: BaseException) -> None:
        """Say that it failed and where; what the error says may quote the payload, so that is for debugging only."""
        name = self.desk.bound.name
        where = dead.where(error)
        log.log(
            level,
            text,
            name,
            f"{type(error).__name__} ({where})" if where else type(error).__name__,
            extra=about(delivery, name),
        )
        log.debug("%s failed", name, exc_info=error, extra=about(delivery, name))

    def withdraw(self, delivery: Delivery) -> None:
        """Later events of the key wait behind this one: the broker brings them again after it."""
        key, topic = delivery.record.key, delivery.record.topic
        if key is None:
            return
        keep = [d for d in self.queue if d.record.key != key or d.record.topic != topic]
        self.desk.dropped(len(self.queue) - len(keep))
        self.queue.clear()
        self.queue.extend(keep)

    def pause_after(self, error: BaseException, again: int) -> float | None:
        """Count a failure; returns the seconds until it is tried again in the lane, or None when it is to leave it."""
        if isinstance(error, Fenced):
            return None
        self.count_failure(error)
        return rule_for(self.desk.bound.options.retry, error).pause(again, self.desk.clock.random())

    def discard(self, outcome: Outcome) -> None:
        """What it wrote is not to be kept."""
        if outcome.tx is not None:
            self.desk.store.discard(outcome.tx)

    def count_failure(self, error: BaseException) -> None:
        """For the meters."""
        self.desk.meter.failed[type(error).__name__] += 1


class LoopLane(Lane):
    """For `async def` handlers, one event at a time, inline."""

    async def step(self) -> None:
        """Handle the next event."""
        desk = self.desk
        delivery = self.queue.popleft()
        self.current = delivery
        again, pause = 0, 0.0
        while True:
            try:
                if pause:
                    self.started = float("inf")
                    await desk.clock.sleep(pause)
                began = self.started = desk.clock.monotonic()
                outcome = await self._try(delivery)
            except Exception as error:
                problem: Exception = error
            except asyncio.CancelledError as cancelled:
                problem = self._interruption(cancelled)
            else:
                if outcome is None:
                    continue  # a row that it read has changed meanwhile: run it again
                self._interrupted = None
                if self._before_current and self._overtaken(delivery):
                    self.discard(outcome)
                    return
                desk.meter.handling.observe(desk.clock.monotonic() - began)
                desk.finished((outcome,))
                return
            next_pause = self.pause_after(problem, again)
            if next_pause is None:
                await self.failed(delivery, problem)
                return
            again, pause = again + 1, next_pause

    async def _try(self, delivery: Delivery) -> Outcome | None:
        desk = self.desk
        if self.skips(delivery.record):
            desk.meter.skipped += 1
            return Outcome(delivery, None, ())
        message = self.message(delivery)
        if not desk.bound.wants_tx:
            result = await desk.call(message, delivery, None)
            return Outcome(delivery, None, () if result is None else self.records(result, delivery))
        tx = desk.store.begin()
        try:
            records = self.records(await desk.call(message, delivery, tx), delivery)
        except BaseException:
            desk.store.discard(tx)
            raise
        return Outcome(delivery, tx, records) if desk.store.finish(tx) else None


Item = tuple[Delivery, Any]
"""A delivery and what the handler is given for it."""


class Chunk:
    """A run of items, and what came of them. Whatever is in neither list was not reached."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.done: list[Outcome] = []
        self.failures: list[tuple[Delivery, BaseException]] = []

    @property
    def left(self) -> list[Item]:
        """What was not reached."""
        settled = {outcome.delivery.receipt for outcome in self.done} | {
            delivery.receipt for delivery, _ in self.failures
        }
        return [item for item in self.items if item[0].receipt not in settled]

    def share(self, result: Sequence[Record], tx: Tx | None, failed: ItemsFailed | None = None) -> None:
        """What one call for all items came to: the records belong to all of them."""
        errors = {id(message): error for message, error in failed.errors} if failed else {}
        self.failures = [(delivery, errors[id(message)]) for delivery, message in self.items if id(message) in errors]
        done = [delivery for delivery, message in self.items if id(message) not in errors]
        self.done = [Outcome(delivery, None, ()) for delivery in done]
        if self.done:
            self.done[-1] = Outcome(done[-1], tx, result)


class ChunkLane(Lane):
    """For handlers that are given several events in one go: lists, and `def` handlers."""

    async def step(self) -> None:
        """Handle the next chunk, and again what of it was not reached."""
        items = await self._take()
        tries: dict[int, int] = {}
        while items:
            chunk = Chunk(items)
            self.started = self.desk.clock.monotonic()
            try:
                await self.run(chunk)
            except asyncio.CancelledError as cancelled:
                chunk.failures = [
                    (delivery, problem) for problem in [self._interruption(cancelled)] for delivery, _ in items
                ]
            items = await self._after(chunk, tries)

    async def run(self, chunk: Chunk) -> None:
        """Handle the items and settle what is done."""
        raise NotImplementedError

    async def _take(self) -> list[Item]:
        most = self.desk.bound.options.batch if self.desk.bound.takes_list else CHUNK
        items: list[Item] = []
        skipped: list[Outcome] = []
        while self.queue and len(items) < most:
            delivery = self.queue.popleft()
            self.current = delivery
            try:
                if self.skips(delivery.record):
                    self.desk.meter.skipped += 1
                    skipped.append(Outcome(delivery, None, ()))
                else:
                    items.append((delivery, self.message(delivery)))
            except (DecodeError, AttemptsExhausted) as error:
                self.count_failure(error)
                await self.failed(delivery, error)
        self.desk.finished(skipped)
        return items

    async def _after(self, chunk: Chunk, tries: dict[int, int]) -> list[Item]:
        """Deal with what failed; returns what is to be handled next."""
        self.current, self.started = None, float("inf")
        left = chunk.left
        again: list[Item] = []
        messages = {delivery.receipt: message for delivery, message in chunk.items}
        for delivery, error in chunk.failures:
            pause = self.pause_after(error, tries.get(delivery.receipt, 0))
            if pause is not None:
                tries[delivery.receipt] = tries.get(delivery.receipt, 0) + 1
                await self.desk.clock.sleep(pause)
                again.append((delivery, messages[delivery.receipt]))
                continue
            if rule_for(self.desk.bound.options.retry, error).delay(delivery.attempt, 0.5) is not None:
                waiting = [item for item in left if _same_key(item[0], delivery)]
                self.desk.dropped(len(waiting))
                left = [item for item in left if item not in waiting]
            await self.failed(delivery, error)
        return again + left

    def call_each(self, chunk: Chunk, guard: Callable[[Callable[[], Any]], Any], connection: Any) -> None:
        """In a thread: one after another, until one fails or the time to hold the transaction is over."""
        desk = self.desk
        until = desk.clock.monotonic() + HOLD if connection is not None else float("inf")
        for delivery, message in chunk.items:
            began = self.started = desk.clock.monotonic()
            self.current = delivery
            if began > until:
                return
            try:
                result = guard(lambda d=delivery, m=message: desk.call(m, d, connection))  # type: ignore[misc]
                chunk.done.append(Outcome(delivery, None, self.records(result, delivery)))
            except Exception as error:
                chunk.failures.append((delivery, error))
                return
            desk.meter.handling.observe(desk.clock.monotonic() - began)

    def call_once(self, chunk: Chunk, guard: Callable[[Callable[[], Any]], Any], connection: Any) -> None:
        """In a thread: one call for all items; where it fails as a whole, one for each, so that the bad one is found."""
        began = self.desk.clock.monotonic()
        last = chunk.items[-1][0]
        try:
            result = guard(lambda: self.desk.call([message for _, message in chunk.items], last, connection))
            chunk.share(self.records(result, last), None)
        except ItemsFailed as failed:
            chunk.share((), None, failed)
        except Exception as error:
            if len(chunk.items) == 1:
                chunk.failures = [(last, error)]
                return
            for item in chunk.items:
                single = Chunk([item])
                self.call_once(single, guard, connection)
                chunk.done += single.done
                chunk.failures += single.failures
        else:
            self.desk.meter.handling.observe(self.desk.clock.monotonic() - began)


class LoopListLane(ChunkLane):
    """For `async def` handlers that take a list."""

    async def run(self, chunk: Chunk) -> None:
        """One call; where it fails as a whole, one for each."""
        try:
            await self._call(chunk)
        except (Exception, asyncio.CancelledError) as error:
            problem = self._interruption(error) if isinstance(error, asyncio.CancelledError) else error
            if len(chunk.items) == 1 or isinstance(problem, Fenced):
                chunk.failures = [(delivery, problem) for delivery, _ in chunk.items]
                return
            for item in chunk.items:
                single = Chunk([item])
                await self.run(single)
                chunk.failures += single.failures
                chunk.done += single.done

    async def _call(self, chunk: Chunk) -> None:
        desk, last = self.desk, chunk.items[-1][0]
        self.current, self.started = last, desk.clock.monotonic()
        tx = desk.store.begin() if desk.bound.wants_tx else None
        try:
            result = await desk.call([message for _, message in chunk.items], last, tx)
            failed = None
        except ItemsFailed as error:
            result, failed = None, error
        except BaseException:
            if tx is not None:
                desk.store.discard(tx)
            raise
        if tx is not None and not desk.store.finish(tx):
            raise Conflict(f"{desk.bound.name}: rows that it read have changed meanwhile")
        chunk.share(self.records(result, last), tx, failed)
        desk.meter.handling.observe(desk.clock.monotonic() - self.started)
        desk.finished(chunk.done)


class ThreadLane(ChunkLane):
    """For `def` handlers without a connection: a chunk in one thread hop."""

    async def run(self, chunk: Chunk) -> None:
        """Call the handler in a thread of the worker's own."""
        call = self.call_once if self.desk.bound.takes_list else self.call_each
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(self.desk.threads, call, chunk, lambda handle: handle(), None))
        self.desk.finished(chunk.done)


class TransactionLane(ChunkLane):
    """For `def` handlers with a database connection: a chunk inside the transaction that settles it."""

    async def run(self, chunk: Chunk) -> None:
        """Call the handler in the writer's thread; effects, messages and acknowledgement are one commit."""
        call = self.call_once if self.desk.bound.takes_list else self.call_each
        while True:
            chunk.done.clear()
            chunk.failures.clear()
            try:
                await self.desk.settle(lambda c: call(chunk, lambda handle: _in_savepoint(c, handle), c), chunk.done)
            except (StorageBroken, asyncio.CancelledError):
                raise
            except Fenced as fenced:
                chunk.done.clear()
                chunk.failures[:] = [(delivery, fenced) for delivery, _ in chunk.items]
            except StorageError as error:
                log.warning("%s waits for its database: %s", self.desk.bound.name, error)
                await self.desk.clock.sleep(STORAGE_PAUSE)
                continue
            return


def _in_savepoint(connection: Any, handle: Callable[[], Any]) -> Any:
    connection.execute("SAVEPOINT event")
    try:
        result = handle()
    except BaseException as error:
        connection.execute("ROLLBACK TO event")
        connection.execute("RELEASE event")
        if connection.refused:
            refused, connection.refused = connection.refused, ""
            raise TransactionEnded(
                f"{refused} in a handler would end the transaction that also holds the acknowledgement; leave it out."
            ) from error
        raise
    connection.execute("RELEASE event")
    return result


def _same_key(one: Delivery, other: Delivery) -> bool:
    return (
        other.record.key is not None and one.record.key == other.record.key and one.record.topic == other.record.topic
    )


def about(delivery: Delivery, handler: str) -> dict[str, Any]:
    """What a log line says of an event: never its payload."""
    record = delivery.record
    return {
        "event_id": record.id,
        "event_type": record.type,
        "event_key": record.key,
        "handler": handler,
        "attempt": delivery.attempt,
        "correlation_id": record.headers.get("correlationid", record.id),
        "trace_id": record.headers.get("traceparent", "")[3:35] or None,
    }
