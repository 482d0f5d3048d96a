"""Lanes for `def` handlers: in a thread, or, with a database connection, inside the transaction that settles them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tidings.broker import Delivery
from tidings.chunk import LONG, Chunk, ChunkLane
from tidings.codec import MISFITS
from tidings.desk import Desk, Outcome
from tidings.errors import (
    CommitRefused,
    Fenced,
    Redo,
    StorageBroken,
    StorageError,
)
from tidings.lane import STORAGE_PAUSE, current, failure

log = logging.getLogger("tidings")

R = TypeVar("R")

CAREFUL = 100
"""For how many chunks every handler has a savepoint, after one has failed when it had written."""
SLOW = 0.05
"""After how many seconds in the transaction a handler is said to be slow."""


class Burst:
    """How a run of `def` calls went: how many went well, which of those published nothing, how the next one failed.

    What came of them is the worker's when the lane says so, not before: its lease may be lost meanwhile.

    `stopped_at_one`: the next one failed, or needs more care than the fast path takes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.plain: list[Delivery] = []
        self.outcomes: list[Outcome] = []
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
        turns, keys = self.desk.turns, dict[str, None]()
        taken = self._grab(keys)
        burst = Burst()
        self._interrupted, self._interruptible = None, True
        try:
            await self._in_thread(self._burst, taken, burst, function)
        except asyncio.CancelledError as cancelled:
            self._stopped = True
            if isinstance(self._interruption(cancelled), Fenced):
                self.desk.dropped(len(taken))
                taken, burst = [], Burst()
        finally:
            self._interruptible = False
        self.desk.done.extend(burst.plain)
        self.desk.outcomes.extend(burst.outcomes)
        self.desk.have.set()
        for key in keys:
            turns.end(key)
        alone = taken[burst.count : burst.count + 1] if burst.stopped_at_one else []
        turns.queue.extendleft(reversed(taken[burst.count + len(alone) :]))
        self._holding = len(alone)
        for delivery in alone:
            await self._singly(delivery, burst.error)
        self._holding = 0

    def _grab(self, keys: dict[str, None]) -> list[Delivery]:
        """The next events, this lane's share of them, and in `keys` what they keep busy."""
        turns, taken = self.desk.turns, list[Delivery]()
        share = -(-len(turns.queue) // self.desk.bound.concurrency)
        if self.desk.bound.concurrency == 1:  # nobody beside it could take one of its keys
            taken.extend(turns.queue)
            turns.queue.clear()
        while len(taken) < share and (delivery := turns.take(keys)) is not None:
            taken.append(delivery)
            if delivery.record.key is not None:
                keys[delivery.record.key] = None
        self._holding = len(taken)
        self.current = taken[0] if taken else None
        self._stopped = False
        return taken

    def _burst(self, taken: Sequence[Delivery], burst: Burst, function: Callable[[Any], Any]) -> None:
        """In a thread: handle what is new and goes well, until one is not, or for long enough."""
        desk = self.desk
        current.set(self)
        decoders, monotonic, turns = desk.reader.json, desk.clock.monotonic, desk.turns
        now = monotonic()
        until, times = now + LONG, [now]
        plain, step = burst.plain.append, times.append
        for delivery in taken:
            self.started, self.current = now, delivery
            if now > until or self._stopped or turns.stopped:
                break
            record = delivery.record
            decode = decoders.get(record.type)
            if decode is None or delivery.attempt != 1 or "datacontenttype" in record.headers:
                burst.stopped_at_one = True
                break
            try:
                message = decode(record.value)
            except MISFITS:
                burst.stopped_at_one = True
                break
            try:
                result = function(message)
                if result is None:
                    plain(delivery)
                else:
                    burst.outcomes.append(self.outcome(delivery, None, result))
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it is retried or buried
                burst.error, burst.stopped_at_one = failure(raised), True
                break
            now = monotonic()
            step(now)
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
            except CommitRefused as refused:
                await self._refused(chunk, refused)
            except StorageError as error:
                log.warning("%s waits for its database: %s", self.desk.bound.name, error)
                await self.desk.clock.sleep(STORAGE_PAUSE)
                continue
            return

    async def _refused(self, chunk: Chunk, refused: CommitRefused) -> None:
        """One of the events has written what cannot be committed: each in a transaction of its own, to find it."""
        chunk.done.clear()
        chunk.failures.clear()
        if len(chunk.items) == 1:
            chunk.failures.append((chunk.items[0][0], refused))
            return
        for item in chunk.one_by_one():
            single = Chunk([item])
            await self.run(single)
            chunk.done += single.done
            chunk.failures += single.failures
            if single.failures and isinstance(fenced := single.failures[0][1], Fenced):
                chunk.failures += [(delivery, fenced) for delivery, _ in chunk.left]
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
