"""Apps under test: on the embedded broker, with a clock that the test moves, and nothing faked.

async with Kit(app) as kit:
await kit.publish(OrderCreated(...))
await kit.settle()
assert await kit.heard(StockLow) == [StockLow(sku="x", left=9)]
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self, TypeVar

import msgspec

from tidings import dead
from tidings.app import App
from tidings.broker import Delivery, Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.codec import Reader
from tidings.config import load
from tidings.connect import Connection, connect
from tidings.embedded import agenda
from tidings.errors import DecodeError
from tidings.handler import Mode
from tidings.message import Event, contract_of
from tidings.store import Table
from tidings.testing.clock import TestClock
from tidings.worker import Worker

E = TypeVar("E", bound=Event)
V = TypeVar("V")

PATIENCE = 10.0
HANGS = 150
"""Turns of the loop without any progress after which what is being handled is taken to wait for the clock."""
TURN = 0.0005
"""Real seconds that a turn lasts, or longer where the machine is busy: then so does what is being handled."""
JUST_AFTER = 0.001


class Letter(NamedTuple):
    """A dead letter: who gave up on what, after how many attempts, and why. No `event` where it does not decode."""

    handler: str
    event: Any
    error: str
    cause: str
    attempts: int
    record: Record


class Kit:
    """Runs apps while the block lasts. They may be used again, in another Kit or for real, when it has ended.

    `broker` is "memory:" or "sqlite:PATH". Handlers hear what is published from the start of the block. Time stands
    still but for `advance`, and for the milliseconds of retries at once. `patience` is in real seconds: how long
    `settle` waits for handlers. Settings in tidings.toml hold, apart from those of the broker. `provide` are objects,
    or functions that make them (see App.provide), that handlers get by type instead of what the apps provide for it.
    """

    def __init__(
        self,
        *apps: App,
        broker: str = "memory:",
        patience: float = PATIENCE,
        provide: Mapping[type, Any] = MappingProxyType({}),
    ) -> None:
        self.apps = apps
        self.clock = TestClock()
        self.failures: list[BaseException] = []
        """What handlers have raised after their tries at once, each with a note that says where."""
        self._told = 0
        self._broker_url = broker
        self._patience = patience
        self._speaker = App("kit")
        self._provide = provide
        self._providing = contextlib.ExitStack()
        self._clocks: dict[App, Clock] = {}
        self._tasks: dict[asyncio.Task[None], Worker] = {}
        self._connection: Connection | None = None

    # -- the block

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _open(self) -> None:
        for app in (*self.apps, self._speaker):
            if app.connection is not None:
                raise AssertionError(f"App {app.name!r} is running already; a Kit opens and closes it itself.")
            self._clocks[app] = app.clock
            app.clock = self.clock
            settings: dict[str, Any] = {**app.settings, "broker": self._broker_url, "store": None}
            config = msgspec.structs.replace(load(**settings), store=None, keep=float("inf"))
            if self._connection is None:
                self._connection = connect(config, self.clock)
                await self._connection.open()
            await app.open(self._connection, config)
        for app in self.apps:
            self._providing.enter_context(app.providing(self._provide))
            for worker in await app.start():
                worker.watcher = self._watcher(worker.bound.name)
                self._tasks[asyncio.create_task(worker.run(), name=worker.bound.name)] = worker

    async def _close(self) -> None:
        for worker in self._tasks.values():
            await worker.drain(0.0)
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._providing.close()
        for app, clock in self._clocks.items():
            await app.close()
            app.clock = clock
        if self._connection is not None:
            await self._connection.close()

    def _watcher(self, handler: str) -> Any:
        def failed(delivery: Delivery, error: BaseException) -> None:
            record = delivery.record
            error.add_note(
                f"in {handler}, on {record.type} {record.id} (key {record.key!r}, attempt {delivery.attempt})"
            )
            self.failures.append(error)

        return failed

    # -- what a test does

    async def publish(self, *events: Event, id: str | None = None, delay: float | None = None) -> None:
        """Tell what happened, as another service would; see App.publish."""
        await self._speaker.publish(*events, id=id, delay=delay)

    async def settle(self, *, failures: Literal["raise", "keep"] = "raise") -> None:
        """Wait until nothing is left to do now: all is handled, or waits for a time to come (see `advance`).

        What handlers have raised since the last time comes as one ExceptionGroup, unless it is to be kept: it is then
        in `failures` only. Raises AssertionError, which says what is stuck, where it takes too long.
        """
        await self._calm()
        new, self._told = self.failures[self._told :], len(self.failures)
        if new and failures == "raise":
            raise BaseExceptionGroup(f"{len(new)} failures in handlers", new)

    async def advance(self, seconds: float) -> None:
        """Let time pass: delayed events, retries and time limits come when they are due, each at its time.

        What they lead to is settled before the clock goes on. A handler that goes on waiting for something else is
        left behind by the clock: that is how a time limit is tested. Failures are kept for `settle`.
        """
        until = self.clock.now() + seconds
        hangs = await self._calm(may_hang=True)
        while (due := self._next_stop(hangs=hangs)) is not None and due <= until:
            self.clock.move(due)
            hangs = await self._calm(may_hang=True)
        self.clock.move(until)
        await self._calm(may_hang=True)

    async def heard(self, event: type[E]) -> list[E]:
        """All events of a type that were published so far, in order. One that is delayed is heard when it is due."""
        contract = contract_of(event)
        reader = Reader({contract.name: event})
        records = await self._records(contract.topic)
        return [reader.decode(record) for record in records if record.type == contract.name]

    async def dead(self, handler: str | None = None) -> list[Letter]:
        """The dead letters of a handler, named with or without its app, or of all."""
        letters = []
        for worker in self._tasks.values():
            name = worker.bound.name
            if handler is None or handler in (name, name.partition(".")[2]):
                letters += [_letter(record, worker) for record in await self._records(dead.topic_of(name))]
        return letters

    async def row(self, table: Table[V], key: str) -> V | None:
        """A row of the store."""
        return await self._connected.store.begin().get(table, key)

    async def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own: to make tables, and to look into them."""
        rows: list[tuple[Any, ...]] = await self._broker.run(lambda c: c.execute(statement, values).fetchall())
        return rows

    # -- how it knows

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise AssertionError("use it as `async with Kit(app) as kit:`")
        return self._connection

    @property
    def _broker(self) -> SqliteBroker:
        broker = self._connected.broker
        assert isinstance(broker, SqliteBroker)
        return broker

    async def _records(self, topic: str) -> list[Record]:
        view = await self._broker.subscribe([topic], None, Start.EARLIEST)
        try:
            records: list[Record] = []
            while deliveries := await view.fetch(1000, 0.0):
                records += [delivery.record for delivery in deliveries]
            return records
        finally:
            await view.close()

    async def _calm(self, *, may_hang: bool = False) -> bool:
        """Until there is nothing to do. With `may_hang`, until what is being handled makes no progress: then True."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        seen: object = None
        turns = 0
        while (to_do := self._to_do()) or any(worker.meter.in_flight for worker in self._tasks.values()):
            if (pause := self._pause()) is not None:
                self.clock.move(pause)
            progress = (to_do, [self._figures(worker) for worker in self._tasks.values()])
            seen, turns = progress, turns + 1 if progress == seen else 0
            if may_hang and turns > HANGS and self._hangs():
                return True
            if loop.time() - began > self._patience:
                raise AssertionError(f"not settled after {self._patience:g} s: {self._stuck(to_do)}")
            await asyncio.sleep(TURN)
        return False

    def _to_do(self) -> dict[str, int]:
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError(f"the worker of {task.get_name()} has ended")
        working = {worker.bound.name: worker for worker in self._tasks.values() if not worker.paused}
        found = agenda.to_do(self._broker.read, self.clock.now())
        return {name: count for name, count in found.items() if name in working or name == agenda.LOG}

    def _pause(self) -> float | None:
        """Until when nothing but the clock keeps a worker from going on."""
        pauses = [worker.paused_until for worker in self._tasks.values()]
        return min((until for until in pauses if until is not None), default=None)

    @staticmethod
    def _figures(worker: Worker) -> tuple[int, ...]:
        meter = worker.meter
        return meter.handled, meter.retried, sum(meter.failed.values()), meter.in_flight

    def _hangs(self) -> bool:
        """Whether all that goes on are `async def` handlers that wait: what runs in a thread is waited for."""
        busy = [worker for worker in self._tasks.values() if any(lane.current is not None for lane in worker.lanes)]
        return bool(busy) and all(worker.bound.mode is Mode.LOOP for worker in busy)

    def _time_limits(self) -> Iterator[float]:
        """When the time limits of what is being handled end."""
        for worker in self._tasks.values():
            limit = worker.bound.options.timeout
            for lane in worker.lanes:
                if lane.current is not None and limit is not None:
                    yield lane.started + limit + JUST_AFTER

    def _next_stop(self, *, hangs: bool) -> float | None:
        """The next time at which something happens."""
        stops = [agenda.next_due(self._broker.read, self.clock.now()), self.clock.alarm]
        if hangs:
            stops += self._time_limits()
        return min((stop for stop in stops if stop is not None), default=None)

    def _stuck(self, to_do: dict[str, int]) -> str:
        told = [f"{count} to do for {name}" for name, count in to_do.items()]
        for worker in self._tasks.values():
            for lane in worker.lanes:
                if lane.current is not None:
                    record = lane.current.record
                    told.append(f"{worker.bound.name} is handling {record.type} {record.id} (key {record.key!r})")
        return "; ".join(told)


def _letter(record: Record, worker: Worker) -> Letter:
    event: Any = None
    with contextlib.suppress(DecodeError, KeyError):
        event = Reader(worker.bound.types).decode(record)
    headers = record.headers
    return Letter(
        headers[dead.HANDLER], event, headers[dead.ERROR], headers[dead.CAUSE], int(headers[dead.ATTEMPTS]), record
    )
