"""The embedded store: rows of Tables beside the user's own tables, in the file of the embedded broker.

An `async def` handler's transaction holds no lock: it remembers the stamp of every row that it read, and its writes
wait in memory until the worker commits them. Every write has a stamp of its own, never used again. Transactions of
one process that have finished but are not yet committed are seen by the next ones (`_ahead`), so that a hot row does
not make them run again; against other processes the stamps are compared in the commit.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import msgspec

from tidings.clock import Clock
from tidings.embedded.database import Connection, Database, named
from tidings.embedded.writer import Writer, no_rows
from tidings.errors import Closed, Conflict, NotInTransaction, Redo, TransactionEnded
from tidings.store import Sql, Table, Tx, Unit

SCHEMA = """
CREATE TABLE IF NOT EXISTS tidings_row (tbl TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    stamp INTEGER NOT NULL, PRIMARY KEY (tbl, key)) WITHOUT ROWID;
"""
GET = "SELECT value, stamp FROM tidings_row WHERE tbl = ? AND key = ?"
STAMP = "SELECT stamp FROM tidings_row WHERE tbl = ? AND key = ?"
PUT = """INSERT INTO tidings_row (tbl, key, value, stamp) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET value = excluded.value, stamp = excluded.stamp"""
DELETE = "DELETE FROM tidings_row WHERE tbl = ? AND key = ?"

SCHEMA_VERSION = "PRAGMA schema_version"

ABSENT = 0
Key = tuple[str, str]
Resource = Callable[[Any], AbstractContextManager[Any]]


class SqliteTx:
    """See Tx. `reads` are the stamps that must still hold, `writes` the encoded rows (None for a deleted one)."""

    __slots__ = ("_store", "ahead", "ended", "reads", "stamp", "writes")

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.reads: dict[Key, int] = {}
        self.writes: dict[Key, bytes | None] = {}
        self.stamp = 0
        self.ahead = False  # whether it has read what is not yet committed
        self.ended = False

    async def get(self, table: Table[Any], key: str, default: Any = None) -> Any:
        """See Tx.get."""
        self._check()
        at = (table.name, key)
        if at in self.writes:
            value = self.writes[at]
        else:
            value, stamp = self._store.look(at)
            self.ahead = self.ahead or self._store.is_ahead(at)
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


class SqliteScope:
    """See Scope. Meanwhile the connection is lent: whoever uses it cannot end the transaction."""

    def __init__(self, connection: Connection, *, careful: bool) -> None:
        self._connection = connection
        self._careful = careful
        self._before = 0

    def __enter__(self) -> Self:
        self._schema = self._connection.execute(SCHEMA_VERSION).fetchone()
        self._connection.lent = True
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.lent = False

    def begin(self) -> None:
        """See Scope.begin."""
        if self._careful:
            self._connection.execute("SAVEPOINT handler")
        else:
            self._before = self._connection.total_changes

    def end(self) -> None:
        """See Scope.end."""
        if self._careful:
            self._connection.execute("RELEASE handler")

    def undo(self, error: Exception) -> Exception:
        """See Scope.undo."""
        connection = self._connection
        if self._careful:
            connection.execute("ROLLBACK TO handler")
            connection.execute("RELEASE handler")
        elif connection.total_changes != self._before or connection.execute(SCHEMA_VERSION).fetchone() != self._schema:
            raise Redo("a handler failed after it had written; the step runs again with a savepoint for each")
        if connection.refused:
            refused, connection.refused = connection.refused, ""
            ended = TransactionEnded(
                f"{refused} in a handler would end the transaction that also holds the acknowledgement; leave it out."
            )
            ended.__cause__ = error
            return ended
        return error


class SqliteUnit:
    """See Unit."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._steps: list[Callable[[Connection], Any]] = []
        self._after: list[Callable[[], None]] = []
        self._txs: list[SqliteTx] = []
        self.conflicts: Sequence[Tx] = ()

    def add(self, step: Callable[[Connection], Any]) -> None:
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
            await self._store.writer.run(self._run)
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
        stamps: dict[Key, int] = {}
        rows: dict[Key, tuple[bytes | None, int]] = {}
        conflicts = []
        for tx in self._txs:
            for at, stamp in tx.reads.items():
                if at not in stamps:
                    row = connection.execute(STAMP, at).fetchone()
                    stamps[at] = ABSENT if row is None else row[0]
                if stamps[at] != stamp:
                    conflicts.append(tx)
                    break
            else:
                for at, value in tx.writes.items():
                    stamps[at] = ABSENT if value is None else tx.stamp
                    rows[at] = (value, tx.stamp)
        if conflicts:
            self.conflicts = conflicts
            raise Conflict(f"{len(conflicts)} transactions have read rows that another process has changed")
        connection.executemany(PUT, [(*at, value, stamp) for at, (value, stamp) in rows.items() if value is not None])
        connection.executemany(DELETE, [at for at, (value, _) in rows.items() if value is None])


class SqliteStore:
    """The store in a file. `writer` finds the broker's writer where that is in the same file: one commit holds both."""

    keeps = True

    def __init__(
        self, database: Database, writer: Callable[[], Writer] | None = None, *, clock: Clock | None = None
    ) -> None:
        self.database = database
        self._find_writer = writer
        self._own_writer: Writer | None = None
        self._ahead: dict[Key, tuple[bytes | None, int, SqliteTx]] = {}
        self._stamps = itertools.count((clock or Clock()).bits(62))
        self._reader: Connection | None = None

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
        if self._reader is not None:
            return
        self.database.open()
        try:
            self._reader = self.database.connect()
            self._reader.executescript(SCHEMA)
        except sqlite3.Error as error:
            self.database.close()
            raise named(error, self.database.path) from error
        if self._find_writer is None:
            self._own_writer = Writer(self.database, no_rows, lambda: None)

    async def close(self) -> None:
        """See Store.close."""
        if self._own_writer is not None:
            await self._own_writer.close()
            self._own_writer = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
            self.database.close()

    def resource(self, kind: type) -> Resource | None:
        """See Store.resource: Sql, sqlite3.Connection, and SQLAlchemy's Session where the extra is installed."""
        if kind is sqlite3.Connection:
            return contextlib.nullcontext
        if kind is Sql:
            return lambda connection: contextlib.nullcontext(SqliteSql(connection))
        if kind.__module__.startswith("sqlalchemy.orm") and kind.__name__ == "Session":
            return _session
        return None

    def scope(self, connection: Connection, *, careful: bool) -> SqliteScope:
        """See Store.scope."""
        return SqliteScope(connection, careful=careful)

    def begin(self) -> Tx:
        """See Store.begin."""
        return SqliteTx(self)

    def unit(self) -> Unit:
        """See Store.unit."""
        return SqliteUnit(self)

    async def rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """See Store.rows."""
        if self._reader is None:
            raise Closed("the store is not open")
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise named(error, self.database.path) from error

    def many(self, connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """See Store.many."""
        return connection.executemany(sql, rows).rowcount if rows else 0

    def find(self, connection: Connection, sql: str, values: Sequence[Any]) -> list[Any]:
        """See Store.find."""
        return connection.execute(sql, values).fetchall()

    def script(self, connection: Connection, sql: str) -> None:
        """See Store.script."""
        for statement in sql.format(serial="INTEGER PRIMARY KEY AUTOINCREMENT", bytes="BLOB").split(";"):
            connection.execute(statement)

    def look(self, at: Key) -> tuple[bytes | None, int]:
        """A row as the next transaction sees it, and its stamp."""
        if (ahead := self._ahead.get(at)) is not None:
            return ahead[0], ABSENT if ahead[0] is None else ahead[1]
        if self._reader is None:
            raise Closed("the store is not open")
        try:
            row = self._reader.execute(GET, at).fetchone()
        except sqlite3.Error as error:
            raise named(error, self.database.path) from error
        return (None, ABSENT) if row is None else row

    def is_ahead(self, at: Key) -> bool:
        """Whether a row was written by a transaction that is not yet committed."""
        return at in self._ahead

    def finish(self, tx: Any) -> bool:
        """See Store.finish. One that has read what was discarded meanwhile must not doom the next ones in its turn."""
        for at, stamp in tx.reads.items():
            if (tx.ahead or at in self._ahead) and self.look(at)[1] != stamp:
                return False
        tx.ended = True
        if tx.writes:
            tx.stamp = next(self._stamps)
            for at, value in tx.writes.items():
                self._ahead[at] = (value, tx.stamp, tx)
        return True

    def discard(self, tx: Any) -> None:
        """See Store.discard. What others have built on its rows is doomed too: nobody is to see that any more."""
        tx.ended = True
        for at in tx.writes if tx.stamp else ():
            self._ahead.pop(at, None)
        tx.stamp = 0

    def committed(self, tx: SqliteTx) -> None:
        """The file holds it now."""
        for at in tx.writes:
            if (ahead := self._ahead.get(at)) is not None and ahead[2] is tx:
                del self._ahead[at]
        tx.stamp = 0


class SqliteSql:
    """See Sql."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """See Sql.execute."""
        return self._connection.execute(sql, values).fetchall()

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """See Sql.executemany."""
        self._connection.executemany(sql, rows)


class Guest:
    """The transaction's connection as SQLAlchemy sees it: its commit, rollback and close are not ours."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None:
        """The worker commits."""

    def rollback(self) -> None:
        """The worker rolls back."""

    def close(self) -> None:
        """The worker keeps it."""


@contextlib.contextmanager
def _session(connection: Connection) -> Generator[Any]:
    """A SQLAlchemy session on the transaction's connection; its own commits are savepoints."""
    from sqlalchemy import create_engine  # noqa: PLC0415 - an extra, imported only where a handler asks for it
    from sqlalchemy.orm import Session  # noqa: PLC0415
    from sqlalchemy.pool import StaticPool  # noqa: PLC0415

    if connection.engine is None:
        guest = Guest(connection)
        connection.engine = create_engine("sqlite://", creator=lambda: guest, poolclass=StaticPool)
    with (
        connection.engine.connect() as bound,
        bound.begin(),
        Session(bind=bound, join_transaction_mode="create_savepoint") as session,
    ):
        yield session
        session.commit()
