"""One more try of an event, alone in a process: what kills that does not kill the worker.

The process imports the program anew and is given the event. It has no part in the worker's transaction: rows that the
handler reads are asked for here, and what it writes and publishes comes back, to be settled in the usual commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from tidings.broker import Delivery, Record
from tidings.errors import HandlerError
from tidings.inquest import manner
from tidings.isolation import HEAD, Done, Failed, Get, Home, Isolation, Job, Ready, Row, Said, frame, message
from tidings.store import Table, Tx

START = 30.0
"""Seconds in which the process has to be ready."""
PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from tidings.alone import main; main(sys.argv[1])"


class Cell:
    """Tries the events of one handler, one at a time. Whoever is cancelled meanwhile leaves no process behind."""

    def __init__(self, isolation: Isolation, home: Home) -> None:
        self._isolation = isolation
        self._home = home
        self._taken = asyncio.Lock()

    async def handle(self, delivery: Delivery, tx: Tx | None) -> list[Record]:
        """What the handler publishes; what it read and wrote is in `tx`. Raises HandlerError: how the process ended."""
        limits = self._isolation
        job = Job(self._home, delivery.record, delivery.attempt, delivery.receipt, limits.memory, limits.seconds)
        async with self._taken, self._process() as (process, reader, writer):
            try:
                writer.write(frame(job))
                await self._start(reader)
                return await self._converse(reader, writer, tx)
            except (EOFError, ConnectionError, msgspec.MsgspecError):
                async with asyncio.timeout(START):
                    code = await process.wait()
                raise HandlerError(f"ended with {manner(code)}") from None

    async def _start(self, reader: asyncio.StreamReader) -> None:
        try:
            async with asyncio.timeout(START):
                first = await _next(reader)
        except TimeoutError:
            raise HandlerError(f"was not ready after {START:g} s") from None
        if not isinstance(first, Ready):
            raise HandlerError(f"could not be started: it {_told(first, self._isolation)}")

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tx: Tx | None
    ) -> list[Record]:
        try:
            async with asyncio.timeout(self._isolation.seconds):
                while isinstance(said := await _next(reader), Get) and tx is not None:
                    row: Any = await tx.get(Table(said.table, msgspec.Raw), said.key)
                    writer.write(frame(Row(None if row is None else bytes(row))))
        except TimeoutError:
            raise HandlerError(f"took longer than its {self._isolation.seconds:g} s and was killed") from None
        if not isinstance(said, Done):
            raise HandlerError(_told(said, self._isolation))
        if tx is not None:
            _write(tx, said)
        return said.records

    @contextlib.asynccontextmanager
    async def _process(
        self,
    ) -> AsyncGenerator[tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamWriter]]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-c", PROGRAM, str(theirs.fileno()), json.dumps(sys.path)]
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL
                )
            except OSError as error:
                ours.close()
                raise HandlerError(f"could not be started: {error}") from error
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            yield process, reader, writer
        finally:
            writer.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()


def _write(tx: Tx, done: Done) -> None:
    for table, key, value in done.writes:
        if value is None:
            tx.delete(Table(table, msgspec.Raw), key)
        else:
            tx.put(Table(table, msgspec.Raw), key, msgspec.Raw(value))


async def _next(reader: asyncio.StreamReader) -> Said:
    length = int.from_bytes(await reader.readexactly(HEAD), "big")
    return message(await reader.readexactly(length))


def _told(said: Any, limits: Isolation) -> str:
    if not isinstance(said, Failed):
        return f"said {type(said).__name__}, which was not its turn"
    if said.error == MemoryError.__name__:
        return f"needed more memory than its {limits.memory >> 20} MiB ({said.where})"
    return f"raised {said.error}: {said.text} ({said.where})"
