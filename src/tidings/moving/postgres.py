"""A PostgreSQL database as the target: events, what the groups have done, and the rows of Tables, in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from tidings import failpoint
from tidings.broker import Record
from tidings.brokers.postgres import FEED_OF, FORGET
from tidings.connect import Connection
from tidings.embedded import fence
from tidings.moving.source import Feed, Source
from tidings.pg.connection import Connection as Database

T = TypeVar("T")

STATE = """INSERT INTO tidings.ack (feed, pos, part, state, tries, due, key)
    SELECT %s, l.pos, l.part, w.state, w.tries, w.due, CASE WHEN w.state = 0 THEN NULL ELSE l.key END
    FROM unnest(%s::text[], %s::smallint[], %s::int[], %s::float8[]) w(id, state, tries, due)
    JOIN tidings.log l ON l.id = w.id AND l.topic = %s"""
ROWS = """INSERT INTO tidings.row (tbl, key, value, stamp)
    SELECT * FROM unnest(%s::text[], %s::bytea[], %s::bytea[], %s::bigint[])
    ON CONFLICT (tbl, key) DO UPDATE SET value = excluded.value, stamp = excluded.stamp"""
MOST = 5000


class DatabaseTarget:
    """The database is broker and store, so the rows of Tables go there too. The user's own tables do not."""

    def __init__(self, connection: Connection, source: Source, place: str) -> None:
        self.connection = connection
        self.settings = f"--broker {place}"
        self.left = source.user_tables
        self._source = source

    async def prepare(self, feed: Feed, upto: int) -> None:
        """See Target: this one learns all of it when it settles."""

    async def settle(self, feeds: Sequence[Feed], delayed: Sequence[Record], told: str) -> None:
        """See Target. A commit there, which may be repeated, then the one in the file that makes it final."""
        unit = self.connection.store.unit()
        await self.connection.broker.publish(delayed, tx=unit)
        unit.add(lambda connection: self._carry(connection, feeds))
        await unit.commit()
        failpoint.hit("carried_over")
        await self._source.run(lambda connection: fence.finish(connection, told))

    def _carry(self, connection: Database, feeds: Sequence[Feed]) -> None:
        for feed in feeds:
            row = connection.run(FEED_OF, (feed.topic, feed.group)).fetchone()
            assert row is not None, "every group has begun at the target"
            connection.run(FORGET, (row[0],))
            done = ((id, 0, 1, 0.0) for id in self._source.done(self._source.reader, feed))
            for states in (done, self._source.tried(self._source.reader, feed)):
                for some in _chunks(states):
                    connection.run(STATE, (row[0], *map(list, zip(*some, strict=True)), row[1]))
        for rows in _chunks(self._source.table_rows()):
            connection.run(ROWS, tuple(map(list, zip(*rows, strict=True))))


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """As many as one statement takes."""
    left = iter(items)
    while some := list(islice(left, MOST)):
        yield some
