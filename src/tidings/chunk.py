"""Lanes for handlers that are given several events in one go: lists, and `def` handlers.

A `def` handler runs in a thread, one hop a chunk. One that takes a database connection runs inside the transaction
that settles the chunk, each event in a savepoint of its own. A chunk ends at its first failure: the events behind it
are handled after the failed one has been tried again, handed back or buried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tidings.broker import Delivery, Record
from tidings.codec import MISFITS
from tidings.errors import (
    AttemptsExhausted,
    Conflict,
    DecodeError,
    Fenced,
    ItemsFailed,
    Redo,
    StorageBroken,
    StorageError,
)
from tidings.lane import STORAGE_PAUSE, Desk, Lane, Outcome, current, same_key
from tidings.retry import rule_for
from tidings.store import Scope, Tx

log = logging.getLogger("tidings")

R = TypeVar("R")

CHUNK = 100
CAREFUL = 100
"""For how many chunks every handler has a savepoint, after one has failed when it had written."""
LONG = 0.25
"""For how many seconds a thread goes on before what it has handled is settled."""
HOLD = 0.025
"""For how many seconds a chunk may hold the transaction before the rest waits for the next one."""
SLOW = 0.05
"""After how many seconds in the transaction a handler is said to be slow."""

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

    async def step(self) -> None:
        """Handle the next chunk, and again what of it was not reached."""
        keys: set[str] = set()
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

    async def _take(self, keys: set[str]) -> list[Item]:
        """The next items, and in `keys` what they keep busy. Lanes beside this one get their share."""
        bound, turns = self.desk.bound, self.desk.turns
        most = bound.options.batch if bound.takes_list else min(CHUNK, -(-len(turns.queue) // bound.concurrency))
        items: list[Item] = []
        while len(items) < most and (delivery := turns.take(keys)) is not None:
            self.current = delivery
            self._holding += 1
            if delivery.record.key is not None:
                keys.add(delivery.record.key)
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
        for delivery, error in chunk.failures:
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
            except Exception as error:  # noqa: BLE001 - whatever it is, it is retried or buried
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is retried or buried
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
            for item in chunk.items:
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
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - retried or buried
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
        if self.behind:
            self._put_behind(chunk)
            return
        desk.meter.handling.observe(desk.clock.monotonic() - self.started)
        desk.finished(chunk.done)

    def _put_behind(self, chunk: Chunk) -> None:
        """Others have to be handled before these after all."""
        for outcome in chunk.done:
            self.discard(outcome)
        queue = self.desk.turns.queue
        first = [queue.popleft() for _ in range(min(self.behind, len(queue)))]
        queue.extendleft(reversed([*first, *(outcome.delivery for outcome in chunk.done)]))
        self.behind = 0


class Burst:
    """How a run of `def` calls went: how many went well, which of those published nothing, how the next one failed.

    `stopped_at_one`: the next one failed, or needs more care than the fast path takes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.plain: list[Delivery] = []
        self.error: Exception | None = None
        self.stopped_at_one = False


class ThreadLane(ChunkLane):
    """For `def` handlers without a connection: a chunk in one thread hop."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._stopped = False

    async def step(self) -> None:
        """Handle the next chunk: as fast as it goes while events are new and go well, else item by item."""
        function = self.desk.plain
        if function is None:
            await super().step()
            return
        turns, keys = self.desk.turns, set[str]()
        taken = self._grab(keys)
        burst = Burst()
        try:
            await self._in_thread(self._burst, taken, burst, function)
        except asyncio.CancelledError as cancelled:
            self._stopped = True
            if isinstance(self._interruption(cancelled), Fenced):
                self.desk.dropped(len(taken))
                taken, burst = [], Burst()
        self.desk.done.extend(burst.plain)
        self.desk.have.set()
        for key in keys:
            turns.end(key)
        alone = taken[burst.count : burst.count + 1] if burst.stopped_at_one else []
        turns.queue.extendleft(reversed(taken[burst.count + len(alone) :]))
        self._holding = len(alone)
        for delivery in alone:
            await self._singly(delivery, burst.error)
        self._holding = 0

    def _grab(self, keys: set[str]) -> list[Delivery]:
        """The next events, this lane's share of them, and in `keys` what they keep busy."""
        turns, taken = self.desk.turns, list[Delivery]()
        share = -(-len(turns.queue) // self.desk.bound.concurrency)
        if self.desk.bound.concurrency == 1:  # nobody beside it could take one of its keys
            taken.extend(turns.queue)
            turns.queue.clear()
        while len(taken) < share and (delivery := turns.take(keys)) is not None:
            taken.append(delivery)
            if delivery.record.key is not None:
                keys.add(delivery.record.key)
        self._holding = len(taken)
        self.current = taken[0] if taken else None
        self._stopped = False
        return taken

    def _burst(self, taken: Sequence[Delivery], burst: Burst, function: Callable[[Any], Any]) -> None:
        """In a thread: handle what is new and goes well, until one is not, or for long enough."""
        desk = self.desk
        current.set(self)
        decoders, monotonic = desk.reader.json, desk.clock.monotonic
        times = [monotonic()]
        until = times[0] + LONG
        for delivery in taken:
            self.started, self.current = times[-1], delivery
            if self.started > until or self._stopped or desk.turns.stopped:
                break
            record = delivery.record
            decode = decoders.get(record.type)
            burst.stopped_at_one = True
            if decode is None or delivery.attempt != 1 or "datacontenttype" in record.headers:
                break
            try:
                message = decode(record.value)
            except MISFITS:
                break
            try:
                result = function(message)
                if result is None:
                    burst.plain.append(delivery)
                else:
                    desk.outcomes.append(self.outcome(delivery, None, result))
            except Exception as raised:  # noqa: BLE001 - whatever it is, it is retried or buried
                burst.error = raised
                break
            burst.stopped_at_one = False
            times.append(monotonic())
        burst.count = len(times) - 1
        desk.meter.handling.observe_steps(times)

    async def _singly(self, delivery: Delivery, error: Exception | None) -> None:
        """Handle one that failed, or is not as most are."""
        key = delivery.record.key
        if key is not None:
            self.desk.turns.busy[key] = None
        try:
            self.current, tries = delivery, dict[int, int]()
            items = await self._item(delivery)
            if error is not None and items:
                chunk = Chunk(items)
                chunk.failures = [(delivery, error)]
                items = await self._after(chunk, tries)
            await self._handle(items, tries)
        finally:
            self.desk.turns.end(key)

    async def run(self, chunk: Chunk) -> None:
        """Call the handler in a thread of the worker's own."""
        await self._in_thread(self.call_once if self.desk.bound.takes_list else self.call_each, chunk, None, None)
        self.desk.finished(chunk.done)

    async def _in_thread(self, call: Callable[..., R], *given: Any) -> R:
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self.desk.threads, call, *given))


class TransactionLane(ChunkLane):
    """For `def` handlers with a database connection: a chunk inside the transaction that settles it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._careful = 0
        self._warned = float("-inf")

    async def run(self, chunk: Chunk) -> None:
        """Call the handler in the writer's thread; effects, messages and acknowledgement are one commit."""
        while True:
            chunk.done.clear()
            chunk.failures.clear()
            self._careful = max(self._careful - 1, 0)
            try:
                await self.desk.settle(lambda connection: self._call(chunk, connection), chunk.done)
            except (StorageBroken, asyncio.CancelledError):
                raise
            except Redo:
                self._careful = CAREFUL
                continue
            except Fenced as fenced:
                chunk.done.clear()
                chunk.failures[:] = [(delivery, fenced) for delivery, _ in chunk.items]
            except StorageError as error:
                log.warning("%s waits for its database: %s", self.desk.bound.name, error)
                await self.desk.clock.sleep(STORAGE_PAUSE)
                continue
            return

    def _call(self, chunk: Chunk, connection: Any) -> None:
        call = self.call_once if self.desk.bound.takes_list else self.call_each
        began = self.desk.clock.monotonic()
        with self.desk.store.scope(connection, careful=self._careful > 0) as scope:
            call(chunk, connection, scope)
        self._warn(self.desk.clock.monotonic() - began)

    def _warn(self, seconds: float) -> None:
        """Say, at most once a minute, that the handler keeps every publisher waiting."""
        now = self.desk.clock.monotonic()
        if seconds > SLOW and now > self._warned + 60:
            self._warned = now
            log.warning(
                "%s held the database for %.0f ms, and every writer waits meanwhile: do what is slow elsewhere",
                self.desk.bound.name,
                seconds * 1000,
            )
