"""A connection whose transaction belongs to tidings, also while a handler has it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import psycopg
from psycopg import sql

from tidings.clock import Clock
from tidings.errors import TransactionEnded

Row = tuple[Any, ...]
Check = Callable[[psycopg.Cursor[Row]], None]

ENDS = re.compile(
    r"(?:^|;)\s*(?:/\*.*?\*/\s*|--[^\n]*\n\s*)*"
    r"(commit|end|rollback(?!\s+(?:work\s+|transaction\s+)?to\b)|abort|begin|start\s+transaction|prepare\s+transaction)\b",
    re.IGNORECASE | re.DOTALL,
)


class Cursor(psycopg.Cursor[Row]):
    """A cursor that does not end the transaction which a handler was lent."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """See psycopg.Cursor.execute. Raises TransactionEnded for COMMIT and its like inside a handler."""
        self._note(query)
        return super().execute(query, params, **options)

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """See psycopg.Cursor.executemany. Raises TransactionEnded as `execute`."""
        self._note(query)
        super().executemany(query, params_seq, **options)

    def stream(self, query: Any, params: Any = None, **options: Any) -> Any:
        """See psycopg.Cursor.stream. Raises TransactionEnded as `execute`."""
        self._note(query)
        return super().stream(query, params, **options)

    def copy(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """See psycopg.Cursor.copy."""
        self._note(statement)
        return super().copy(statement, params, **options)

    def _note(self, query: Any) -> None:
        """A handler uses it, and may have written something."""
        connection: Any = self.connection
        if connection.lent:
            connection.used += 1
            connection.watch(query)
            if connection.deferred:
                connection.catch_up()


class Connection(psycopg.Connection[Row]):
    """A connection whose transaction belongs to tidings while a handler uses it."""

    lent = False
    refused = ""
    used = 0
    """How many statements handlers have executed."""
    engine: Any = None
    """SQLAlchemy's, where a handler has asked for a session."""
    appended: list[Any]
    """Rows for the log, written when all else of the transaction is done: see `log.py`."""
    delayed: list[Any]
    deferred: list[tuple[Callable[[], Any], Check | None]]
    hasty = False
    """Whether what a handler writes may be deferred: where that fails, all runs again with care."""
    grown: set[int]
    """Topics that have got records."""
    clock: Clock
    begun: float | None = None
    """Since when it works on something of ours."""

    def lend(self) -> None:
        """A handler has it."""
        self.lent = True

    def take_back(self) -> None:
        """The handler has ended."""
        self.begun, self.lent = self.clock.monotonic(), False

    def run(self, query: str, values: Any = None) -> psycopg.Cursor[Row]:
        """Execute a statement of ours: prepared once, its rows in binary."""
        return self.execute(query.encode(), values, prepare=True, binary=True)

    def defer(self, query: str, values: Any, check: Check | None = None) -> None:
        """Execute a statement of ours later in the transaction, in one journey with others. `check` sees its result."""
        self.deferred.append((partial(self.run, query, values), check))

    def catch_up(self) -> None:
        """Execute what was deferred, in that order. Raises what a check raises."""
        deferred, self.deferred = self.deferred, []
        with self.pipeline() if len(deferred) > 1 else contextlib.nullcontext():
            cursors = [execute() for execute, _ in deferred]
        for cursor, (_, check) in zip(cursors, deferred, strict=True):
            if check is not None:
                check(cursor)

    def direct(self) -> Self:
        """For who executes by itself: nothing is deferred any more."""
        self.hasty = False
        self.catch_up()
        return self

    def watch(self, query: Any) -> None:
        """Refuse a statement of a handler that would end the transaction."""
        text = query.as_string(self) if isinstance(query, sql.Composable) else query
        text = text.decode() if isinstance(text, bytes) else str(text)
        if (found := ENDS.search(text)) is not None:
            self.refuse(found[1].upper())

    def refuse(self, what: str) -> None:
        """Raises TransactionEnded where the transaction is lent to a handler."""
        if self.lent:
            self.refused = what
            raise TransactionEnded(
                f"{what} in a handler would end the transaction that also holds the acknowledgement. "
                "Leave it out: the worker commits when the handler returns and rolls back when it raises."
            )

    def commit(self) -> None:
        """Refused inside a handler: the worker commits when the handler returns."""
        self.refuse("commit()")
        super().commit()

    def rollback(self) -> None:
        """Refused inside a handler: raise an exception instead."""
        self.refuse("rollback()")
        super().rollback()

    def cut(self) -> None:
        """End it from another thread, whatever it waits for. A server that hangs would keep it for ever."""
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
