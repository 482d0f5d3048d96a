"""A server as the site of a run, with a store beside it: what is pending is asked of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from tidings import dead
from tidings.broker import Start
from tidings.chaos.books import Books, count
from tidings.chaos.books_sqlite import SqliteBooks
from tidings.chaos.plan import PUBLISHER, Place
from tidings.chaos.service import HEARS, NAME
from tidings.chaos.site import Blow, Look
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import Connection, connect
from tidings.errors import BrokerError, ConfigError, Unreachable
from tidings.linked import Linked
from tidings.store import Store
from tidings.stores.sqlite import SqliteStore

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for one question to the broker."""
AWAY = 5.0
"""The same for a look, in between which the broker may be away."""
EMPTY = 0.5


class Thread:
    """An event loop in a thread of its own: looks come from threads, and a connection belongs to one loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-eye", daemon=True)
        self._thread.start()

    def run(self, doing: Coroutine[Any, Any, T], seconds: float = PATIENCE) -> T:
        """Do it there, within so many seconds. Raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(_within(doing, seconds), self._loop).result()

    def end(self) -> None:
        """No more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


async def _within(doing: Coroutine[Any, Any, T], seconds: float) -> T:
    async with asyncio.timeout(seconds):
        return await doing


def _books(store: Store) -> Books:
    if isinstance(store, SqliteStore):
        return SqliteBooks(store.database)
    from tidings.chaos.books_postgres import PostgresBooks
    from tidings.stores.postgres import PostgresStore

    assert isinstance(store, PostgresStore)
    return PostgresBooks(store)


class Remote:
    """A server at a URL that holds nothing of an earlier run; `faults` are what can befall it.

    `direct` is where it is looked at, where the way to `url` is broken.
    """

    places: ClassVar = {
        "published": Place(role=PUBLISHER),
        "publishing": Place(role=PUBLISHER),
        "relayed": Place(5),
        "acknowledging": Place(5),
        **dict.fromkeys(("handled", "lent", "settling"), Place(10)),  # batches are larger than those of the file
    }

    def __init__(
        self, url: str, store: str, *, faults: Mapping[str, Blow] | None = None, direct: str | None = None
    ) -> None:
        self.url = url
        self.store = store
        self.faults = faults or {}
        self._direct = direct or url
        connection = self._connect(store)
        assert isinstance(connection.broker, Linked)
        self.books = _books(connection.store)
        if isinstance(self.books, SqliteBooks):
            self.store = f"sqlite:{self.books.path}"  # the processes are in other folders
        self._thread: Thread | None = None
        self._connection: Connection | None = None
        self._last = 1

    def _connect(self, store: str | None) -> Connection:
        return connect(Config(broker=self._direct, store=store), Clock())

    async def prepare(self) -> None:
        """See Site.prepare."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self.books.refuse()
        self._thread = Thread()
        self._thread.run(self._declare())
        self.books.prepare()

    async def _declare(self) -> None:
        """Make topics, groups and the store's tables. Then only the broker: the outbox is left to the processes."""
        first = self._connect(self.store)
        await first.open()
        await first.close()
        self._connection = self._connect(None)
        await self._connection.open()
        broker = self._connection.broker
        for topic in sorted({topic for topics in HEARS.values() for topic in topics}):
            groups = [f"{NAME}.{handler}" for handler, topics in HEARS.items() if topic in topics]
            await broker.declare(topic, groups, Start.EARLIEST)
            for group in groups:
                if (await broker.lag(topic, group)).waiting:
                    raise ConfigError(
                        f"Topic {topic} at {self.url} has records already. A run counts all that is in it: give it a "
                        "server of its own (--server), or another prefix where the broker has one."
                    )

    def look(self) -> Look:
        """See Site.look. While the broker is away, as many are pending as at the last look."""
        try:
            self._last = self._pending()
        except (BrokerError, TimeoutError):
            self._last = max(self._last, 1)
        return Look(self._last, count(self.books), *self.books.sizes())

    def _pending(self) -> int:
        """Twice: what is on its way from the outbox to a topic may be seen by neither."""
        assert self._thread is not None
        found = 0
        for _ in range(2):
            ((outbox,),) = self.books.read(self.books.outbox)
            found = max(found, int(outbox) + self._thread.run(self._waiting(), AWAY))
        return found

    async def _waiting(self) -> int:
        assert self._connection is not None
        broker = self._connection.broker
        asked = (broker.lag(topic, f"{NAME}.{handler}") for handler, topics in HEARS.items() for topic in topics)
        return sum(lag.suspected for lag in await asyncio.gather(*asked))

    def dead(self) -> Iterable[tuple[str, str, int]]:
        """See Site.dead."""
        assert self._thread is not None
        return [letter for handler in HEARS for letter in self._thread.run(self._patiently(f"{NAME}.{handler}"))]

    async def _patiently(self, handler: str) -> list[tuple[str, str, int]]:
        """Its dead letters, also where the connection has to be made anew."""
        while True:
            try:
                return await self._letters(handler)
            except Unreachable:
                await asyncio.sleep(EMPTY)

    async def _letters(self, handler: str) -> list[tuple[str, str, int]]:
        assert self._connection is not None
        broker, found = self._connection.broker, list[tuple[str, str, int]]()
        topic, group = dead.topic_of(handler), dead.operator_of(handler)
        await broker.declare(topic, [group])
        waiting = (await broker.lag(topic, group)).waiting or 0
        letters = await broker.subscribe([topic], group, Start.EARLIEST)
        while len(found) < waiting:
            for lent in await letters.fetch(100, EMPTY):
                number = msgspec.json.decode(lent.record.value)["number"]
                found.append((lent.record.headers[dead.HANDLER], lent.record.type, number))
        await letters.close()
        return found

    def close(self) -> None:
        """See Site.close."""
        self.books.close()
        if self._thread is not None:
            if self._connection is not None:
                with contextlib.suppress(BrokerError, TimeoutError):
                    self._thread.run(self._connection.close())
            self._thread.end()
            self._thread = None
