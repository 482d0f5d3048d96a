"""Reading without blocking the event loop: one connection, one statement at a time, each with a deadline.

Whoever waits may be cancelled; the statement then goes on and its rows are dropped, so that no answer ever comes to
another's question. A connection that was lost while nobody looked is made anew once before anybody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import psycopg

from tidings.errors import Closed, StorageBusy
from tidings.pg.database import DEADLINE, Database, Row, lost, named


class Reader:
    """A connection for short statements that commit by themselves and may be repeated; `durable` as in Database."""

    def __init__(self, database: Database, *, durable: bool = False) -> None:
        self._database = database
        self._durable = durable
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[list[Row]]] = set()
        self._closed = False

    async def read(self, sql: str, values: Any = None) -> list[Row]:
        """The rows of a statement. Raises a StorageError."""
        if self._closed:
            raise Closed(f"the connection to {self._database.name} is closed")
        task = asyncio.create_task(self._read(sql, values))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[list[Row]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever was cancelled meanwhile does not ask for it

    async def _read(self, sql: str, values: Any) -> list[Row]:
        async with self._turn:
            try:
                known = self._connection is not None
                try:
                    return await self._ask(sql, values)
                except psycopg.Error as error:
                    if not (known and lost(error, self._connection)):
                        raise
                    await self._drop()
                    return await self._ask(sql, values)
            except psycopg.Error as error:
                if lost(error, self._connection):
                    await self._drop()
                raise named(error, self._database.name) from error
            except TimeoutError:
                await self._drop()
                raise StorageBusy(f"{self._database.name} did not answer within {DEADLINE:g} s; try again.") from None

    async def _ask(self, sql: str, values: Any) -> list[Row]:
        async with asyncio.timeout(DEADLINE):
            if self._connection is None:
                self._connection = await self._database.connect_async(durable=self._durable)
            cursor = await self._connection.execute(sql.encode(), values, prepare=True, binary=True)
            return await cursor.fetchall() if cursor.description else []

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def close(self) -> None:
        """Wait for what is being read, then disconnect."""
        self._closed = True
        waiting: Sequence[asyncio.Task[list[Row]]] = list(self._tasks)
        if waiting:
            await asyncio.wait(waiting, timeout=DEADLINE)
        await self._drop()
