"""Lanes for handlers that are given several events in one go: lists, and `def` handlers.

A `def` handler runs in a thread, one hop a chunk. One that takes a database connection runs inside the transaction
that settles the chunk, each event in a savepoint of its own. A chunk ends at its first failure: the events behind it
are handled after the failed one has been tried again, handed back or buried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tidings.broker import Delivery, Record
from tidings.desk import Desk, Outcome
from tidings.errors import (
    AttemptsExhausted,
    Conflict,
    DecodeError,
    Fenced,
    ItemsFailed,
)
from tidings.lane import Lane, current, failure, same_key
from tidings.retry import rule_for
from tidings.store import Scope, Tx

log = logging.getLogger("tidings")

CHUNK = 250
LONG = 0.25
"""For how many seconds a thread goes on before what it has handled is settled."""
HOLD = 0.025
"""For how many seconds a chunk may hold the transaction before the rest waits for the next one."""

Item = tuple[Delivery, Any]
"""A delivery and what the handler is given for it."""


class Chunk:
    """A run of items, and what came of them. Whatever is in neither list was not reached."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.done: list[Outcome] = []
        self.failures: list[tuple[Delivery, BaseException]] = []
        self.partly: ItemsFailed | None = None

    @property
    def left(self) -> list[Item]:
        """What was not reached."""
        settled = {outcome.delivery.receipt for outcome in self.done} | {
            delivery.receipt for delivery, _ in self.failures
        }
        return [item for item in self.items if item[0].receipt not in settled]

    def one_by_one(self) -> Iterator[Item]:
        """Each item, but for those behind one of their key that has failed: they are not reached."""
        for item in self.items:
            if not any(same_key(item[0], failed) for failed, _ in self.failures):
                yield item

    def share(self, result: Sequence[Record], tx: Tx | None, failed: ItemsFailed | None = None) -> None:
        """What one call for all items came to: the records belong to all of them."""
        errors = {id(message): error for message, error in failed.errors} if failed else {}
        self.failures[:] = [
            (delivery, errors[id(message)]) for delivery, message in self.items if id(message) in errors
        ]
        done = [delivery for delivery, message in self.items if id(message) not in errors]
        self.done[:] = [Outcome(delivery) for delivery in done]  # the list that the transaction settles
        if self.done:
            self.done[-1] = Outcome(done[-1], tx, result)


class ChunkLane(Lane):
    """For handlers that are given several events in one go: lists, and `def` handlers."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._holding = 0
        self._interruptible = False

    async def step(self) -> None:
        """Handle the next chunk, and again what of it was not reached."""
        keys: dict[str, None] = {}
        self._interrupted = None
        try:
            await self._handle(await self._take(keys), {})
        finally:
            self._holding = 0
            for key in keys:
                self.desk.turns.end(key)

    @property
    def holding(self) -> int:
        """How many events it has taken and not finished."""
        return self._holding

    async def _handle(self, items: list[Item], tries: dict[int, int]) -> None:
        while items and not isinstance(self._interrupted, Fenced):
            self._holding = len(items)
            chunk = Chunk(items)
            self.started = self.desk.clock.monotonic()
            self._interruptible = True
            try:
                await self.run(chunk)
            except asyncio.CancelledError as cancelled:
                chunk.failures = [
                    (delivery, problem) for problem in [self._interruption(cancelled)] for delivery, _ in items
                ]
            finally:
                self._interruptible = False
            self._holding -= len(chunk.done)
            items = await self._after(chunk, tries)
        self.desk.dropped(len(items))

    async def run(self, chunk: Chunk) -> None:
        """Handle the items and settle what is done."""
        raise NotImplementedError

    async def _take(self, keys: dict[str, None]) -> list[Item]:
        """The next items, and in `keys` what they keep busy. Lanes beside this one get their share."""
        bound, turns = self.desk.bound, self.desk.turns
        most = bound.options.batch if bound.takes_list else min(CHUNK, -(-len(turns.queue) // bound.concurrency))
        items: list[Item] = []
        while len(items) < most and (delivery := turns.take(keys)) is not None:
            self.current = delivery
            self._holding += 1
            if delivery.record.key is not None:
                keys[delivery.record.key] = None
            items += await self._item(delivery)
        return items

    async def _item(self, delivery: Delivery) -> list[Item]:
        """The delivery with what the handler is given; none where it is skipped or buried at once."""
        try:
            if not self.skips(delivery.record):
                return [(delivery, self.message(delivery))]
        except (DecodeError, AttemptsExhausted) as error:
            self.count_failure(error)
            await self.failed(delivery, error)
        else:
            self.desk.meter.skipped += 1
            self.desk.finished([Outcome(delivery)])
        return []

    async def _after(self, chunk: Chunk, tries: dict[int, int]) -> list[Item]:
        """Deal with what failed; returns what is to be handled next."""
        self.current, self.started = None, float("inf")
        left = chunk.left
        again: list[Item] = []
        messages = {delivery.receipt: message for delivery, message in chunk.items}
        back: list[Delivery] = []
        for delivery, error in chunk.failures:
            if any(same_key(delivery, earlier) for earlier in back):
                self.desk.dropped(1)  # withdrawn with the earlier one: it comes again behind that
                continue
            pause = self.pause_after(error, tries.get(delivery.receipt, 0))
            if pause is not None:
                tries[delivery.receipt] = tries.get(delivery.receipt, 0) + 1
                await self.pause(pause)
                again.append((delivery, messages[delivery.receipt]))
                continue
            if rule_for(self.desk.bound.options.retry, error).delay(delivery.attempt, 0.5) is not None:
                waiting = [item for item in left if same_key(item[0], delivery)]
                self.desk.dropped(len(waiting))
                left = [item for item in left if item not in waiting]
                back.append(delivery)
            await self.failed(delivery, error)
        return again + left

    def call_each(self, chunk: Chunk, connection: Any, scope: Scope | None) -> None:
        """In a thread: one after another, until one fails or it has taken long enough."""
        desk, monotonic, done = self.desk, self.desk.clock.monotonic, chunk.done
        current.set(self)
        times = [monotonic()]
        until = times[0] + (LONG if scope is None else HOLD)
        for delivery, message in chunk.items:
            self.started, self.current = times[-1], delivery
            if self.started > until:
                break
            if scope is not None:
                scope.begin()
            try:
                result = desk.call(message, delivery, connection)
                done.append(Outcome(delivery) if result is None else self.outcome(delivery, None, result))
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it is retried or buried
                error = failure(raised)
                chunk.failures.append((delivery, error if scope is None else scope.undo(error)))
                break
            if scope is not None:
                scope.end()
            times.append(monotonic())
        desk.meter.handling.observe_steps(times)

    def _guarded(self, call: Callable[[], Any], delivery: Delivery, scope: Scope | None) -> Outcome | Exception:
        """What came of a call; where it failed, the error, and nothing that it wrote."""
        if scope is not None:
            scope.begin()
        try:
            outcome = self.outcome(delivery, None, call())
        except BaseException as raised:  # noqa: BLE001 - whatever it is, it is retried or buried
            error = failure(raised)
            return error if scope is None else scope.undo(error)
        if scope is not None:
            scope.end()
        return outcome

    def call_once(self, chunk: Chunk, connection: Any, scope: Scope | None) -> None:
        """In a thread: one call for all items; where that fails as a whole, one for each, to find the bad one."""
        desk, last = self.desk, chunk.items[-1][0]
        began = desk.clock.monotonic()
        current.set(self)
        self.current = last
        outcome = self._guarded(lambda: self._call_list(chunk, last, connection), last, scope)
        if not isinstance(outcome, Exception):
            chunk.share(outcome.records, None, chunk.partly)
            desk.meter.handling.observe(desk.clock.monotonic() - began)
        elif len(chunk.items) == 1:
            chunk.failures = [(last, outcome)]
        else:
            for item in chunk.one_by_one():
                single = Chunk([item])
                self.call_once(single, connection, scope)
                chunk.done += single.done
                chunk.failures += single.failures

    def _call_list(self, chunk: Chunk, last: Delivery, connection: Any) -> Any:
        try:
            return self.desk.call([message for _, message in chunk.items], last, connection)
        except ItemsFailed as failed:
            chunk.partly = failed
            return None


class LoopListLane(ChunkLane):
    """For `async def` handlers that take a list."""

    async def run(self, chunk: Chunk) -> None:
        """One call; where it fails as a whole, one for each."""
        try:
            await self._call(chunk)
        except BaseException as error:  # noqa: BLE001 - retried or buried
            problem = self._problem(error)
            if len(chunk.items) == 1 or isinstance(problem, Fenced):
                chunk.failures = [(delivery, problem) for delivery, _ in chunk.items]
                return
            for item in chunk.one_by_one():
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
        if self.behind:
            self.put_behind(chunk.done)
            return
        desk.meter.handling.observe(desk.clock.monotonic() - self.started)
        desk.finished(chunk.done)

    def put_behind(self, outcomes: Sequence[Outcome]) -> None:
        """Others have to be handled before these after all."""
        for outcome in outcomes:
            self.discard(outcome)
        queue = self.desk.turns.queue
        first = [queue.popleft() for _ in range(min(self.behind, len(queue)))]
        queue.extendleft(reversed([*first, *(outcome.delivery for outcome in outcomes)]))
        self.behind = 0
