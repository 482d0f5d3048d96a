"""The transaction's connection in a handler's hands: what it may do with it, and how what it did is undone.

As a psycopg.Connection it is lent as it is; as Sql or as a SQLAlchemy Session it is wrapped.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Any, Self

import psycopg
from psycopg.pq import TransactionStatus

from tidings.errors import Redo, TransactionEnded
from tidings.pg.connection import Connection
from tidings.pg.database import lost

MARKS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|[?%]""")
STATEMENTS = 500
"""How many translated ones are remembered."""
WRITES = re.compile(
    r"\s*(?:insert|update|delete|create|alter|drop)\b(?!.*\breturning\b)[^;]*$", re.IGNORECASE | re.DOTALL
)
"""One statement that surely gives no rows."""


class PostgresScope:
    """See Scope. Meanwhile the connection is lent: whoever uses it cannot end the transaction.

    An error of the database ends what was done since the last savepoint, so one that comes without goes on in a
    careful scope. That is why in one that is not careful what gives no rows may wait until something does, or the
    handlers are through: all of it is one journey then.
    """

    def __init__(self, connection: Connection, *, careful: bool) -> None:
        self._connection = connection
        self._careful = careful
        self._before = 0

    def __enter__(self) -> Self:
        self._connection.lend()
        self._connection.hasty = not self._careful
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._careful:
                self._catch_up()
        finally:
            self._connection.hasty = False
            self._connection.take_back()

    def _catch_up(self) -> None:
        connection = self._connection
        try:
            connection.catch_up()
        except psycopg.Error as error:
            if lost(error, connection):
                raise
            raise Redo("something that handlers have written was refused; the step runs again with care") from error

    def begin(self) -> None:
        """See Scope.begin."""
        if self._careful:
            self._connection.run("SAVEPOINT handler")
        else:
            self._before = self._connection.used

    def end(self) -> None:
        """See Scope.end."""
        if self._careful:
            self._connection.run("RELEASE handler")

    def undo(self, error: Exception) -> Exception:
        """See Scope.undo."""
        connection = self._connection
        if connection.broken and not isinstance(error, psycopg.Error):  # whatever the handler made of it
            raise psycopg.OperationalError(f"the connection was lost in a handler ({type(error).__name__})") from error
        if connection.broken or connection.info.transaction_status == TransactionStatus.IDLE:
            raise error
        if self._careful:
            connection.run("ROLLBACK TO handler")
            connection.run("RELEASE handler")
        elif connection.used != self._before:
            raise Redo("a handler failed after it had used the connection; the step runs again with a savepoint each")
        if connection.refused:
            refused, connection.refused = connection.refused, ""
            ended = TransactionEnded(
                f"{refused} in a handler would end the transaction that also holds the acknowledgement; leave it out."
            )
            ended.__cause__ = error
            return ended
        return error


class PostgresSql:
    """See Sql."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """See Sql.execute."""
        connection = self._connection
        if connection.hasty and WRITES.match(sql):
            connection.used += 1
            connection.deferred.append((partial(connection.execute, translated(sql), tuple(values)), None))
            return []
        cursor = connection.execute(translated(sql), values)
        return cursor.fetchall() if cursor.description else []

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """See Sql.executemany."""
        connection = self._connection
        execute = partial(connection.cursor().executemany, translated(sql), list(rows))
        if connection.hasty:
            connection.used += 1
            connection.deferred.append((execute, None))
        else:
            execute()


@functools.lru_cache(STATEMENTS)
def translated(sql: str) -> bytes:
    """A statement with the marks of psycopg for those of ours; what is quoted stays what it is."""
    return MARKS.sub(_mark, sql).encode()


def _mark(found: re.Match[str]) -> str:
    return "%s" if found[0] == "?" else found[0].replace("%", "%%")


@contextlib.contextmanager
def session(connection: Connection) -> Generator[Any]:
    """A SQLAlchemy session on the transaction's connection; its own commits are savepoints."""
    from sqlalchemy.orm import Session  # noqa: PLC0415 - an extra, imported only where a handler asks for it

    connection.direct()
    connection.engine = connection.engine or _engine(connection)
    with (
        connection.engine.connect() as bound,
        bound.begin(),
        Session(bind=bound, join_transaction_mode="create_savepoint") as session,
    ):
        yield session
        session.commit()


def _engine(connection: Connection) -> Any:
    """An engine that has no connection but this, and neither commits nor rolls back nor closes it: the worker does."""
    from sqlalchemy import create_engine  # noqa: PLC0415 - as above
    from sqlalchemy.pool import StaticPool  # noqa: PLC0415

    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    for ending in ("do_commit", "do_rollback", "do_close", "do_terminate"):
        setattr(engine.dialect, ending, _nothing)
    return engine


def _nothing(*_: object) -> None:
    """Leave it to the worker."""
