"""The PostgreSQL store: rows of Tables beside the user's own tables, in the database of the broker.

An `async def` handler's transaction holds no lock: it remembers the stamp of every row that it read, and its writes
wait in memory until the worker commits them. Every write has a stamp of its own, never used again. Transactions of
one process that have finished but are not yet committed are seen by the next ones (`_ahead`), so that a hot row does
not make them run again; against other processes the rows are locked and their stamps compared in the commit. Rows that
handlers ask for at the same time are read by one statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import psycopg

from tidings.errors import Closed, Conflict, NotInTransaction
from tidings.pg import schema
from tidings.pg.connection import Connection
from tidings.pg.database import Database
from tidings.pg.lent import PostgresScope, PostgresSql, session
from tidings.pg.packed import blobs, longs, texts
from tidings.pg.reader import Reader
from tidings.pg.writer import Step, Writer
from tidings.store import Sql, Table, Tx, Unit

GET = """SELECT r.tbl, r.key, r.value, r.stamp FROM unnest(%s::text[], %s::bytea[]) w(tbl, key)
    JOIN tidings.row r ON r.tbl = w.tbl AND r.key = w.key"""
HOLD = """SELECT r.tbl, r.key, r.stamp FROM tidings.row r JOIN unnest(%s::text[], %s::bytea[]) w(tbl, key)
    ON r.tbl = w.tbl AND r.key = w.key ORDER BY r.tbl, r.key FOR NO KEY UPDATE OF r"""
CHANGE = """UPDATE tidings.row r SET value = w.value, stamp = w.stamp
    FROM unnest(%s::text[], %s::bytea[], %s::bytea[], %s::bigint[]) w(tbl, key, value, stamp)
    WHERE r.tbl = w.tbl AND r.key = w.key"""
MAKE = """INSERT INTO tidings.row (tbl, key, value, stamp)
    SELECT * FROM unnest(%s::text[], %s::bytea[], %s::bytea[], %s::bigint[])
    ON CONFLICT DO NOTHING RETURNING tbl, key"""
DELETE = """DELETE FROM tidings.row r USING unnest(%s::text[], %s::bytea[]) w(tbl, key)
    WHERE r.tbl = w.tbl AND r.key = w.key"""

ABSENT = 0
Key = tuple[str, str]
Resource = Callable[[Any], AbstractContextManager[Any]]


class PostgresTx:
    """See Tx. `reads` are the stamps that must still hold, `writes` the encoded rows (None for a deleted one).

    `upon` are the transactions whose rows it has read before they were committed.
    """

    __slots__ = ("_store", "discarded", "ended", "reads", "stamp", "upon", "writes")

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.reads: dict[Key, int] = {}
        self.writes: dict[Key, bytes | None] = {}
        self.upon: list[PostgresTx] = []
        self.stamp = 0
        self.ended = False
        self.discarded = False

    async def get(self, table: Table[Any], key: str, default: Any = None) -> Any:
        """See Tx.get."""
        self._check()
        at = (table.name, key)
        if at in self.writes:
            value = self.writes[at]
        else:
            known = self._store.known(at)
            if known is None:
                value, stamp = await self._store.look(at)
            else:
                value, stamp, tx = known
                self.upon.append(tx)
            self.reads.setdefault(at, stamp)
        return default if value is None else msgspec.msgpack.decode(value, type=table.type)

    def put(self, table: Table[Any], key: str, value: Any) -> None:
        """See Tx.put. Raises InvalidEvent where the value does not fit the table's type."""
        self._check()
        self.writes[(table.name, key)] = table.encode(key, value)

    def delete(self, table: Table[Any], key: str) -> None:
        """See Tx.delete."""
        self._check()
        self.writes[(table.name, key)] = None

    def _check(self) -> None:
        if self.ended:
            raise NotInTransaction("this Tx belongs to an event that is settled; use it inside its handler only")


class PostgresUnit:
    """See Unit."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._steps: list[Step] = []
        self._after: list[Callable[[], None]] = []
        self._txs: list[PostgresTx] = []
        self.conflicts: Sequence[Tx] = ()

    def add(self, step: Step) -> None:
        """See Unit.add."""
        self._steps.append(step)

    def after(self, done: Callable[[], None]) -> None:
        """See Unit.after."""
        self._after.append(done)

    def join(self, txs: Sequence[Any]) -> None:
        """See Unit.join."""
        self._txs = [tx for tx in txs if tx.reads or tx.writes]
        if self._txs:
            self._steps.insert(0, self._apply)

    async def commit(self) -> None:
        """See Unit.commit."""
        try:
            await self._store.writer.run(self._steps[0] if len(self._steps) == 1 else self._run)
        except Conflict:
            for tx in self.conflicts:
                self._store.discard(tx)
            raise
        for tx in self._txs:
            self._store.committed(tx)
        for done in self._after:
            done()

    def _run(self, connection: Connection) -> None:
        for step in self._steps:
            step(connection)

    def _apply(self, connection: Connection) -> None:
        asked = {at for tx in self._txs for at in (*tx.reads, *tx.writes)}
        held = {(tbl, key.decode()): stamp for tbl, key, stamp in connection.run(HOLD, _keys(asked)).fetchall()}
        stamps = dict(held)
        rows: dict[Key, tuple[bytes | None, int]] = {}
        conflicts = []
        for tx in self._txs:
            if any(stamps.get(at, ABSENT) != stamp for at, stamp in tx.reads.items()):
                conflicts.append(tx)
                continue
            for at, value in tx.writes.items():
                stamps[at] = ABSENT if value is None else tx.stamp
                rows[at] = (value, tx.stamp)
        if not conflicts:
            _write(connection, rows, held.keys(), self._taken)
        self._refuse(conflicts)

    def _taken(self, rows: set[Key]) -> None:
        """Another process has made these rows meanwhile."""
        self._refuse([tx for tx in self._txs if not rows.isdisjoint(tx.writes)])

    def _refuse(self, conflicts: Sequence[PostgresTx]) -> None:
        if conflicts:
            self.conflicts = conflicts
            raise Conflict(f"{len(conflicts)} transactions have read rows that another process has changed")


def _keys(keys: Iterable[Key]) -> tuple[Any, Any]:
    ordered = list(keys)
    return texts([tbl for tbl, _ in ordered]), blobs([key.encode() for _, key in ordered])


def _write(
    connection: Connection, rows: dict[Key, tuple[bytes | None, int]], held: Iterable[Key],
    taken: Callable[[set[Key]], None],
) -> None:  # fmt: skip
    """Write rows, of which those in `held` are locked; `taken` is told which of the others somebody else has made."""
    there = set(held)
    changed = {at: row for at, row in rows.items() if row[0] is not None and at in there}
    made = {at: row for at, row in rows.items() if row[0] is not None and at not in there}
    gone = [at for at, row in rows.items() if row[0] is None and at in there]
    if changed:
        connection.defer(CHANGE, _columns(changed))
    if gone:
        connection.defer(DELETE, _keys(gone))
    if made:
        connection.defer(
            MAKE,
            _columns(dict(sorted(made.items()))),
            lambda kept: taken(made.keys() - {(tbl, key.decode()) for tbl, key in kept.fetchall()}),
        )


def _columns(rows: dict[Key, tuple[bytes | None, int]]) -> tuple[Any, ...]:
    values, stamps = zip(*rows.values(), strict=True)
    return (*_keys(rows), blobs(values), longs(stamps))


class PostgresStore:
    """The store in a database. `writer` finds the broker's where that is in the same one: one commit holds both."""

    keeps = True

    def __init__(self, database: Database, writer: Callable[[], Writer] | None = None) -> None:
        self.database = database
        self._find_writer = writer
        self._own_writer: Writer | None = None
        self._ahead: dict[Key, tuple[bytes | None, int, PostgresTx]] = {}
        self._stamps = itertools.count(database.clock.bits(62))
        self._reader: Reader | None = None
        self._asked: dict[Key, asyncio.Future[tuple[bytes | None, int]]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    @property
    def writer(self) -> Writer:
        """The group-commit writer of this process."""
        if self._own_writer is not None:
            return self._own_writer
        if self._find_writer is None:
            raise Closed("the store is not open")
        return self._find_writer()

    async def open(self) -> None:
        """See Store.open."""
        if self._reader is None:
            await asyncio.to_thread(self.database.prepare)
            self._reader = Reader(self.database)
            if self._find_writer is None:
                self._own_writer = Writer(self.database, lambda topics: None)

    async def close(self) -> None:
        """See Store.close."""
        if self._own_writer is not None:
            await self._own_writer.close()
            self._own_writer = None
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await reader.close()

    def resource(self, kind: type) -> Resource | None:
        """See Store.resource: Sql, psycopg.Connection, and SQLAlchemy's Session where the extra is installed."""
        if kind is psycopg.Connection:
            return lambda connection: contextlib.nullcontext(connection.direct())
        if kind is Sql:
            return lambda connection: contextlib.nullcontext(PostgresSql(connection))
        if kind.__module__.startswith("sqlalchemy.orm") and kind.__name__ == "Session":
            return session
        return None

    def scope(self, connection: Connection, *, careful: bool) -> PostgresScope:
        """See Store.scope."""
        return PostgresScope(connection, careful=careful)

    def begin(self) -> Tx:
        """See Store.begin."""
        return PostgresTx(self)

    def unit(self) -> Unit:
        """See Store.unit."""
        return PostgresUnit(self)

    async def rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """See Store.rows."""
        if self._reader is None:
            raise Closed("the store is not open")
        return await self._reader.read(_ours(sql), values)

    def many(self, connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """See Store.many."""
        if not rows:
            return 0
        cursor = connection.cursor()
        cursor.executemany(_ours(sql).encode(), rows)
        return cursor.rowcount

    def find(self, connection: Connection, sql: str, values: Sequence[Any]) -> list[Any]:
        """See Store.find."""
        return connection.run(_ours(sql), values).fetchall()

    def script(self, connection: Connection, sql: str) -> None:
        """See Store.script."""
        connection.run(schema.LOCK)
        serial = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
        connection.execute(_ours(sql.format(serial=serial, bytes="BYTEA")).encode())

    def known(self, at: Key) -> tuple[bytes | None, int, PostgresTx] | None:
        """A row as a transaction leaves it that has ended and is not committed yet, its stamp, and which it is."""
        ahead = self._ahead.get(at)
        return None if ahead is None else (ahead[0], ABSENT if ahead[0] is None else ahead[1], ahead[2])

    async def look(self, at: Key) -> tuple[bytes | None, int]:
        """A row as it is committed, and its stamp; all that is asked for in one turn of the loop is read at once."""
        if self._reader is None:
            raise Closed("the store is not open")
        found = self._asked.get(at)
        if found is None:
            loop = asyncio.get_running_loop()
            if not self._asked:
                loop.call_soon(self._ask)
            found = self._asked[at] = loop.create_future()
        return await asyncio.shield(found)

    def _ask(self) -> None:
        asked, self._asked = self._asked, {}
        task = asyncio.create_task(self._answer(asked))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, asked: dict[Key, asyncio.Future[tuple[bytes | None, int]]]) -> None:
        try:
            if self._reader is None:
                raise Closed("the store is not open")
            tables, keys = zip(*asked, strict=True)
            rows = await self._reader.read(GET, (list(tables), [key.encode() for key in keys]))
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            for future in asked.values():
                future.set_exception(error)
                future.exception()  # it may be that nobody waits any more
            return
        found = {(tbl, key.decode()): (value, stamp) for tbl, key, value, stamp in rows}
        for at, future in asked.items():
            future.set_result(found.get(at, (None, ABSENT)))

    def finish(self, tx: Any) -> bool:
        """See Store.finish. One that has read what was discarded meanwhile must not doom the next ones in its turn."""
        for at, stamp in tx.reads.items():
            known = self.known(at)
            if known is not None and known[1] != stamp:
                return False
        if any(other.discarded for other in tx.upon):
            return False
        tx.upon.clear()
        tx.ended = True
        if tx.writes:
            tx.stamp = next(self._stamps)
            for at, value in tx.writes.items():
                self._ahead[at] = (value, tx.stamp, tx)
        return True

    def discard(self, tx: Any) -> None:
        """See Store.discard. What others have built on its rows is doomed too: nobody is to see that any more."""
        tx.ended = tx.discarded = True
        for at in tx.writes if tx.stamp else ():
            self._ahead.pop(at, None)
        tx.stamp = 0

    def committed(self, tx: PostgresTx) -> None:
        """The database holds it now."""
        for at in tx.writes:
            if (ahead := self._ahead.get(at)) is not None and ahead[2] is tx:
                del self._ahead[at]
        tx.stamp = 0


@functools.cache
def _ours(sql: str) -> str:
    """A statement of the engine's: its tables are in the schema `tidings`, its values are `?`."""
    return re.sub(r"\btidings_([a-z]+)\b", r"tidings.tidings_\1", sql).replace("?", "%s")
