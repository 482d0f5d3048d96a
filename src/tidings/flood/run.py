"""A flood from its beginning to its end: workers start, events arrive, all is settled or given up, workers end."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from tidings import dead
from tidings.app import App
from tidings.broker import Broker, Record
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect
from tidings.errors import ConfigError
from tidings.flood.crew import Hand, working
from tidings.flood.ledger import Ledger
from tidings.flood.load import Load
from tidings.flood.notes import Reader
from tidings.flood.publisher import Publisher
from tidings.flood.stream import Stream
from tidings.flood.worker import Duty
from tidings.message import contract_of

LOOK = 0.1
"""Seconds between two looks at what is waiting."""
QUIET = 2
"""Looks without anything waiting, after which all is done: what one handler publishes is for the next to settle."""
PAGE = 500

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows a bar with a title and a total while a block lasts; what it gives is told how many more are done."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be flooded. Without `broker` it is a temporary file; `patience` in seconds without progress."""

    targets: tuple[str, ...]
    load: Load
    workers: int = 1
    broker: str | None = None
    store: str | None = None
    patience: float = 60.0


class Letters(msgspec.Struct):
    """Dead letters of a handler: how many by error, and what the first of each says."""

    count: Counter[str]
    cause: dict[str, str]

    def add(self, letter: Record) -> None:
        """One more."""
        error = letter.headers[dead.ERROR]
        self.count[error] += 1
        self.cause.setdefault(error, letter.headers[dead.CAUSE])


class Evidence(msgspec.Struct):
    """What happened; `deaths` of workers by how they ended.

    Times are in seconds on the monotonic clock, those of the publisher from its own beginning.
    """

    groups: Mapping[str, Sequence[str]]
    publisher: Publisher
    ledger: Ledger
    left: dict[str, int]
    letters: dict[str, Letters]
    deaths: Counter[str]


def groups_of(apps: Sequence[App]) -> dict[str, list[str]]:
    """The handlers, each with its topics."""
    return {
        handler.name: list(dict.fromkeys(
            source if isinstance(source, str) else contract_of(source).topic for source in handler.sources))
        for app in apps for handler in app.handlers.values()
    }  # fmt: skip


async def flood(wish: Wish, apps: Sequence[App], stream: Stream, progress: Progress) -> Evidence:
    """Flood the apps. Raises ConfigError where a worker cannot start, or a BrokerError where there is no broker."""
    with tempfile.TemporaryDirectory(prefix="tidings-flood-") as name:
        folder = Path(name)
        url = wish.broker or f"sqlite:{folder / 'flood.db'}"
        clock = Clock()
        run = f"flood-{clock.id()[:13]}-"
        duty = Duty(wish.targets, url, run, str(folder), wish.store)
        try:
            async with _opened(duty, clock) as broker, working(duty, folder, workers=wish.workers) as hands:
                times = wish.load.times(stream.times)
                publisher = Publisher(broker, clock, run, records=stream.records, times=times)
                course = Course(publisher, broker, groups_of(apps), clock)
                return await course.run(Reader(folder), hands, patience=wish.patience, progress=progress)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None


class Course:
    """One run, while the workers work."""

    def __init__(self, publisher: Publisher, broker: Broker, groups: Mapping[str, Sequence[str]], clock: Clock) -> None:
        self._publisher = publisher
        self._broker = broker
        self._groups = groups
        self._clock = clock
        self._ledger = Ledger()

    async def run(self, reader: Reader, hands: Sequence[Hand], *, patience: float, progress: Progress) -> Evidence:
        """Publish, wait, read the notes."""
        since = self._clock.now()
        with progress("arriving", len(self._publisher.times)) as bar:
            await self._publisher.run(bar)
        waiting = await self._waiting()
        self._read(reader)
        with progress("settling", sum(waiting.values())) as bar:
            left = await self._drain(reader, patience, bar)
        letters = await self._letters(since)
        deaths = sum((hand.deaths for hand in hands), Counter[str]())
        self._read(reader)
        return Evidence(self._groups, self._publisher, self._ledger, left, letters, deaths)

    def _read(self, reader: Reader) -> int:
        before = self._ledger.events
        for block in reader.read():
            self._ledger.take(block)
        return self._ledger.events - before

    async def _drain(self, reader: Reader, patience: float, bar: Callable[[int], None]) -> dict[str, int]:
        """Until nothing waits, or nothing has been settled for so long; returns what waits, by group."""
        quiet, progressed = 0, self._clock.monotonic()
        while True:
            waiting = await self._waiting()
            if settled := self._read(reader):
                progressed = self._clock.monotonic()
                bar(settled)
            quiet = 0 if waiting else quiet + 1
            if quiet == QUIET or self._clock.monotonic() - progressed > patience:
                return waiting
            await self._clock.sleep(LOOK)

    async def _waiting(self) -> dict[str, int]:
        waiting: Counter[str] = Counter()
        for group, topics in self._groups.items():
            for topic in topics:
                waiting[group] += (await self._broker.lag(topic, group)).suspected
        return {group: count for group, count in waiting.items() if count}

    async def _letters(self, since: float) -> dict[str, Letters]:
        """What handlers have given up."""
        topics = {dead.topic_of(group): group for group in self._groups}
        died = {group: Letters(Counter(), {}) for group in self._groups}
        if not topics:
            return died
        view = await self._broker.subscribe(list(topics), None, since)
        try:
            while deliveries := await view.fetch(PAGE, 0.0):
                for record in (delivery.record for delivery in deliveries):
                    if self._publisher.led_to(record):
                        died[topics[record.topic]].add(record)
        finally:
            await view.close()
        return died


@contextlib.asynccontextmanager
async def _opened(duty: Duty, clock: Clock) -> AsyncGenerator[Broker]:
    broker = connect(load(**duty.settings), clock).broker
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return ConfigError("The workers have not started in time; is the machine too busy?")
    return error
