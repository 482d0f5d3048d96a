"""PostgreSQL as the site of a run: broker and store in one database, read with SQL and not by the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import ClassVar

from tidings.chaos.books import count, letters
from tidings.chaos.books_postgres import PostgresBooks
from tidings.chaos.embedded import Embedded
from tidings.chaos.site import Blow, Look
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import connect
from tidings.errors import BrokerError
from tidings.stores.postgres import PostgresStore

# Everything but the open dead letters, which nobody works off.
PENDING = """WITH feeds AS (SELECT f.id, f.topic FROM tidings.feed f JOIN tidings.grp g ON g.id = f.grp
        WHERE g.name NOT LIKE 'operator.%')
    SELECT (SELECT count(*) FROM feeds f
        JOIN tidings.position p ON p.feed = f.id
        JOIN tidings.log l ON l.topic = f.topic AND l.part = p.part AND l.pos > p.pos
        WHERE NOT EXISTS (SELECT FROM tidings.ack a WHERE a.feed = f.id AND a.pos = l.pos))
    + (SELECT count(*) FROM feeds f JOIN tidings.ack a ON a.feed = f.id WHERE a.state != 0)
    + (SELECT count(*) FROM tidings.delay)"""
DEAD = """SELECT l.headers, l.type, l.body FROM tidings.log l JOIN tidings.topic t ON t.id = l.topic
    WHERE t.name LIKE 'dead.%' ORDER BY l.pos"""


class Postgres:
    """A database that holds nothing of an earlier run; `faults` are what can befall its server.

    `direct` is where it is looked at, where the way to `url` is broken.
    """

    store = None
    places: ClassVar = Embedded.places

    def __init__(self, url: str, *, faults: Mapping[str, Blow] | None = None, direct: str | None = None) -> None:
        self.url = url
        self.faults = faults or {}
        self._connection = connect(Config(broker=direct or url), Clock())
        assert isinstance(self._connection.store, PostgresStore)
        self.books = PostgresBooks(self._connection.store)
        self.close = self.books.close
        self._last = Look(1, 0, None, None)

    async def prepare(self) -> None:
        """See Site.prepare."""
        await asyncio.to_thread(self.books.refuse)
        await self._connection.open()
        await self._connection.close()
        await asyncio.to_thread(self.books.prepare)

    def look(self) -> Look:
        """See Site.look. While the server is away it is as at the last look, and something is pending."""
        try:
            ((pending,),) = self.books.read(PENDING)
            self._last = Look(pending, count(self.books), *self.books.sizes())
        except BrokerError:
            self._last = self._last._replace(pending=max(self._last.pending, 1))
        return self._last

    def dead(self) -> Iterator[tuple[str, str, int]]:
        """See Site.dead."""
        return letters(self.books, DEAD)
