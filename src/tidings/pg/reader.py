"""Reading without blocking the event loop: one connection in a thread of its own, each statement with a deadline.

A thread, because psycopg's asynchronous cursor goes once around the loop for each packet of a large answer, which cost
more than everything else about it. Whoever waits may be cancelled; the statement then goes on and its rows are dropped,
so that no answer ever comes to another's question. A connection that was lost while nobody looked is made anew once
before anybody is told.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from tidings.errors import Closed
from tidings.pg.connection import Connection, Row
from tidings.pg.database import DEADLINE, Away, Database, lost, named


class Reader:
    """A connection for short statements that commit by themselves, may be repeated, and need not reach the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._thread = ThreadPoolExecutor(1, "tidings-reader")
        self._closed = False

    async def read(self, sql: str, values: Any = None) -> list[Row]:
        """The rows of a statement. Raises a StorageError."""
        if self._closed:
            raise Closed(f"the connection to {self._database.name} is closed")
        reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read, sql, values)
        reading.add_done_callback(_heeded)
        try:
            async with asyncio.timeout(DEADLINE):
                return await asyncio.shield(reading)
        except TimeoutError:
            if self._connection is not None:
                self._connection.cut()
            raise Away(f"{self._database.name} did not answer within {DEADLINE:g} s; try again.") from None

    def _read(self, sql: str, values: Any) -> list[Row]:
        known = self._connection is not None
        try:
            try:
                return self._ask(sql, values)
            except psycopg.Error as error:
                if not (known and lost(error, self._connection)):
                    raise
                self._drop()
                return self._ask(sql, values)
        except psycopg.Error as error:
            if lost(error, self._connection):
                self._drop()
            raise named(error, self._database.name) from error

    def _ask(self, sql: str, values: Any) -> list[Row]:
        if self._connection is None:
            self._connection = self._database.connect(durable=False)
        cursor = self._connection.run(sql, values)
        return cursor.fetchall() if cursor.description else []

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def close(self) -> None:
        """Wait for what is being read, then disconnect."""
        self._closed = True
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        await asyncio.wait([closing], timeout=DEADLINE)
        self._thread.shutdown(wait=False)


def _heeded(reading: asyncio.Future[list[Row]]) -> None:
    """Whoever was cancelled meanwhile does not ask how it went."""
    if not reading.cancelled():
        reading.exception()
