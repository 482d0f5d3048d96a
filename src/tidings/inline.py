"""Lanes for `async def` handlers: inline on the event loop, so that an event costs an awaited call and no task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tidings.broker import Delivery
from tidings.codec import MISFITS
from tidings.desk import Outcome
from tidings.errors import Fenced
from tidings.lane import Lane, current


class LoopLane(Lane):
    """For `async def` handlers, one event at a time, inline."""

    async def work(self) -> None:
        """Handle what there is, for ever."""
        function = self.desk.plain
        if function is None:
            return await super().work()
        current.set(self)
        while True:
            await self.rest()
            await self._burst(function)

    async def _burst(self, function: Callable[[Any], Any]) -> None:
        """The fast path: nothing but decode, call and remember, as long as events are new and go well."""
        desk, take, end = self.desk, self.desk.turns.take, self.desk.turns.end
        decoders, done, monotonic = desk.reader.json, desk.done, desk.clock.monotonic
        self.started = monotonic()
        times = [self.started]
        while (delivery := take()) is not None:
            self.current = delivery
            record = delivery.record
            decode = decoders.get(record.type)
            if decode is None or delivery.attempt != 1 or "datacontenttype" in record.headers:
                await self._persist(delivery, None)
                continue
            try:
                message = decode(record.value)
            except MISFITS:
                await self._persist(delivery, None)
                continue
            try:
                result = await function(message)
                if result is None:
                    done.append(delivery)
                else:
                    desk.outcomes.append(self.outcome(delivery, None, result))
            except BaseException as error:  # noqa: BLE001 - retried or buried
                await self._persist(delivery, error)
                continue
            end(record.key)
            if len(done) < 2:
                desk.have.set()
            self.started = monotonic()
            times.append(self.started)
        desk.meter.handling.observe_steps(times)

    async def step(self) -> None:
        """Handle the next event."""
        delivery = self.desk.turns.take()
        if delivery is not None:
            self.current = delivery
            await self._persist(delivery, None)

    async def _persist(self, delivery: Delivery, error: BaseException | None) -> None:
        """Handle an event until something came of it; `error` is what a first try has come to."""
        try:
            await self._try_again(delivery, error)
        finally:
            self.desk.turns.end(delivery.record.key)

    async def _try_again(self, delivery: Delivery, error: BaseException | None) -> None:
        again = 0
        while True:
            if error is None:
                try:
                    if await self._attempt(delivery):
                        return
                    continue  # a row that it read has changed meanwhile: run it again
                except BaseException as raised:  # noqa: BLE001 - retried or buried
                    error = raised
            problem = self._problem(error)
            if self.behind and not isinstance(problem, Fenced):
                self.put_behind([Outcome(delivery)])
                return
            try:
                pause = self.pause_after(problem, again)
                if pause is None:
                    await self.failed(delivery, problem)
                    self.behind = (
                        0  # what became earlier meanwhile waits for the key: that is no matter of the next one
                    )
                    return
                await self.pause(pause)
            except asyncio.CancelledError as cancelled:
                error = cancelled
                continue
            again, error = again + 1, None

    async def _attempt(self, delivery: Delivery) -> bool:
        """Handle an event once; False where it has to run again."""
        desk = self.desk
        began = self.started = desk.clock.monotonic()
        outcome = await self._try(delivery)
        if outcome is None:
            return False
        self._interrupted = None
        if self.behind:
            self.put_behind([outcome])
            return True
        desk.meter.handling.observe(desk.clock.monotonic() - began)
        desk.finished((outcome,))
        return True

    def put_behind(self, outcomes: Sequence[Outcome]) -> None:
        """Earlier ones of its key have to be handled again before it."""
        for outcome in outcomes:
            self.discard(outcome)
            self.desk.turns.end_behind(outcome.delivery, self.behind)
        self.behind = 0

    async def _try(self, delivery: Delivery) -> Outcome | None:
        desk = self.desk
        if self.skips(delivery.record):
            desk.meter.skipped += 1
            return Outcome(delivery)
        message = self.message(delivery)
        if not desk.bound.wants_tx:
            return self.outcome(delivery, None, await desk.call(message, delivery, None))
        tx = desk.store.begin()
        try:
            outcome = self.outcome(delivery, tx, await desk.call(message, delivery, tx))
        except BaseException:
            desk.store.discard(tx)
            raise
        return outcome if desk.store.finish(tx) else None
