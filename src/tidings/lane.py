"""A lane handles the events of its keys one after another; a handler has as many lanes as it may do things at once.

`async def` handlers run inline on the event loop: `inline.py`. Those that are given several events in one go (lists,
and `def` handlers in a thread or in the transaction) are in `chunk.py`.

What came of an event is an `Outcome` for the worker to commit; what failed is tried again in the lane, then handed
back with a delay, then buried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from tidings import dead
from tidings.broker import Delivery, Record
from tidings.cell import Cell
from tidings.desk import Desk, Outcome
from tidings.errors import AttemptsExhausted, Fenced, HandlerError, StorageBroken, StorageError, UnknownType
from tidings.inquest import summary
from tidings.retry import rule_for
from tidings.store import Tx

log = logging.getLogger("tidings")

STORAGE_PAUSE = 0.5

current: ContextVar[Lane | None] = ContextVar("tidings_lane", default=None)
"""The lane in which code runs, set once a lane: from it, what is published or logged learns its cause."""


class Lane:
    """One sequence of events. `interrupt` cancels what it handles just now."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.wake = asyncio.Event()
        self.current: Delivery | None = None
        self.started = 0.0
        self.task: asyncio.Task[None] | None = None
        self.paused: float | None = None  # until when it waits for the next try, on the monotonic clock
        self.behind = 0  # how many of the key of `current` have to be handled before it after all
        self.stuck: Delivery | None = None  # what was over its time limit and could not be interrupted
        self._interrupted: Exception | None = None
        self._interruptible = True  # whether a cancellation would be dealt with just now

    @property
    def holding(self) -> int:
        """How many events it has taken and not finished."""
        return self.current is not None

    @property
    def hangs(self) -> bool:
        """Whether it is over its time limit and cannot be interrupted."""
        return self.stuck is not None and self.stuck is self.current

    async def work(self) -> None:
        """Handle what there is, for ever."""
        current.set(self)
        while True:
            await self.rest()
            await self.step()

    async def rest(self) -> None:
        """Wait until there is something to take, and call the next lane where there is more."""
        desk = self.desk
        while not desk.turns.queue or desk.turns.stopped:
            self.current = None
            self.wake.clear()
            desk.idle.append(self)
            await self.wake.wait()
        if len(desk.turns.queue) > 1:
            desk.call_lane()

    async def step(self) -> None:
        """Handle the next event or chunk."""
        raise NotImplementedError

    def interrupt(self, why: Exception) -> None:
        """Cancel what is being handled; it fails with `why`, or is dropped where that is Fenced."""
        if not self.holding or self._interrupted is not None or self.task is None:
            return
        if self._interruptible:
            self._interrupted = why
            self.task.cancel()
        elif isinstance(why, Fenced):
            self._interrupted = why  # seen before the next try

    def _interruption(self, cancelled: asyncio.CancelledError) -> Exception:
        """Why it was cancelled; raises again where that was not by `interrupt`."""
        why, self._interrupted = self._interrupted, None
        if self.task is None or (why is None and self.task.cancelling()):
            raise cancelled
        if why is None:  # nobody has cancelled the lane
            return HandlerError("its handler awaited something that was cancelled").with_traceback(
                cancelled.__traceback__
            )
        self.task.uncancel()
        return why

    def _problem(self, error: BaseException) -> Exception:
        """What is wrong with the event; raises again what is not its handler's failure."""
        return self._interruption(error) if isinstance(error, asyncio.CancelledError) else failure(error)

    # -- before the handler

    def message(self, delivery: Delivery) -> Any:
        """What the handler is given. Raises DecodeError or AttemptsExhausted."""
        desk, record = self.desk, delivery.record
        if delivery.attempt > 1:
            rules = desk.bound.options.retry.values()
            if all(rule.exhausted(delivery.attempt) for rule in rules):
                raise AttemptsExhausted(f"its worker died in the last of {delivery.attempt - 1} attempts")
            if desk.inquest is not None:
                desk.inquest.begins(desk.bound.name, delivery)
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

    def outcome(self, delivery: Delivery, tx: Tx | None, result: Any) -> Outcome:
        """What came of an event."""
        return Outcome(delivery, tx, () if result is None else self.records(result, delivery))

    async def failed(self, delivery: Delivery, error: BaseException) -> None:
        """After the tries in the lane: hand the event back with a delay, or bury it."""
        desk = self.desk
        if isinstance(error, Fenced):
            desk.dropped(1)
            return
        if desk.watcher is not None:
            desk.watcher(delivery, error)
        rule = rule_for(desk.bound.options.retry, error)
        delay = rule.delay(delivery.attempt, desk.clock.random())
        if delay is None:
            await self._give_up(delivery, error)
            return
        if desk.inquest is not None:
            desk.inquest.ends(desk.bound.name, delivery)
        desk.meter.retried += 1
        self._tell(logging.WARNING, f"%s failed and is tried again in {delay:.1f} s: %s", delivery, error)
        desk.dropped(desk.turns.withdraw(delivery))
        await desk.hand_back([delivery], delay)
        desk.dropped(1)

    async def _give_up(self, delivery: Delivery, error: BaseException) -> None:
        """Bury it, with its cause and how often it was handled; before that, try it alone where that is asked for."""
        desk, attempts = self.desk, delivery.attempt
        self.started = float("inf")  # what follows has time limits of its own
        if isinstance(error, AttemptsExhausted) and desk.inquest is not None:
            causes = await desk.inquest.causes(desk.bound.name, delivery)
            error = AttemptsExhausted(f"{error} ({summary(causes)})") if causes else error
        if desk.cell is not None and isinstance(error, AttemptsExhausted | MemoryError):
            try:
                await self._alone(delivery, desk.cell)
            except HandlerError as again:
                error = AttemptsExhausted(f"{str(error) or type(error).__name__}; alone in a process it {again}")
            else:
                return
        elif isinstance(error, AttemptsExhausted):
            attempts -= 1  # the last time it was lent only to be buried
        desk.meter.dead[type(error).__name__] += 1
        self._tell(logging.ERROR, "%s gave up: %s", delivery, error)
        letter = dead.bury(delivery, desk.bound.name, error, desk.clock, attempts=attempts)
        desk.finished([Outcome(delivery, None, [letter])])

    async def _alone(self, delivery: Delivery, cell: Cell) -> None:
        """Handle it in a process of its own. Raises HandlerError where that fails."""
        desk = self.desk
        log.warning("%s tries an event alone in a process", desk.bound.name, extra=about(delivery, desk.bound.name))
        outcome = None
        while outcome is None:
            tx = desk.store.begin() if desk.bound.wants_tx else None
            try:
                records = await cell.handle(delivery, tx)
                if tx is None or desk.store.finish(tx):
                    outcome = Outcome(delivery, tx, records)
            except StorageBroken:
                raise
            except StorageError as error:
                log.warning("%s waits for its database: %s", desk.bound.name, error)
                await desk.clock.sleep(STORAGE_PAUSE)
            finally:
                if tx is not None and outcome is None:
                    desk.store.discard(tx)
        for record in outcome.records:
            desk.meter.published[record.type] += 1
        if self.behind:
            self.put_behind([outcome])
        else:
            desk.finished([outcome])

    def put_behind(self, outcomes: Sequence[Outcome]) -> None:
        """Earlier ones have to be handled again before these."""
        raise NotImplementedError

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

    def pause_after(self, error: BaseException, again: int) -> float | None:
        """Count a failure; returns the seconds until it is tried again in the lane, or None when it is to leave it."""
        if isinstance(error, Fenced):
            return None
        self.count_failure(error)
        return rule_for(self.desk.bound.options.retry, error).pause(again, self.desk.clock.random())

    async def pause(self, seconds: float) -> None:
        """Wait before the next try."""
        self.started, self.paused = float("inf"), self.desk.clock.monotonic() + seconds
        try:
            await self.desk.clock.sleep(seconds)
        finally:
            self.paused = None

    def discard(self, outcome: Outcome) -> None:
        """What it wrote is not to be kept."""
        if outcome.tx is not None:
            self.desk.store.discard(outcome.tx)

    def count_failure(self, error: BaseException) -> None:
        """For the meters."""
        self.desk.meter.failed[type(error).__name__] += 1


def failure(error: BaseException) -> Exception:
    """What a handler raised, as the failure of its event; raises again what is meant for the whole process.

    `sys.exit()` in a handler is not: it would end the process in order, hand the event back, and so end the next one.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
    return HandlerError(f"its handler raised {error!r}").with_traceback(error.__traceback__)


def same_key(one: Delivery, other: Delivery) -> bool:
    """Whether one has to wait for the other."""
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
