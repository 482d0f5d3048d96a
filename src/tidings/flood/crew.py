"""The worker processes of a flood: started, started again where one dies, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from tidings.errors import ConfigError
from tidings.flood.worker import Duty
from tidings.runtime import DRAINED

PATIENCE = 20.0
"""Seconds for all workers to start, and for one to end."""
PAUSE = 0.1
"""Seconds before a dead worker is started again."""


class Hand:
    """A worker process, and those that follow it when it dies."""

    def __init__(self, number: int, duty: Duty, folder: Path) -> None:
        self.ready = asyncio.Event()
        self.deaths: Counter[str] = Counter()
        self._duty = msgspec.json.encode(duty).decode()
        self._log = folder / f"worker-{number}.log"
        self._ending = False
        self._ours: socket.socket | None = None

    async def keep(self) -> None:
        """Keep a process running until `end`. Raises ConfigError where none can be started."""
        while not self._ending:
            code = await self._live()
            if self._ending:
                return
            self.deaths[how(code)] += 1
            if not self.ready.is_set():
                raise ConfigError(f"A worker ended with {how(code)} before it was ready: {self._last_words()}")
            self.ready.clear()
            await asyncio.sleep(PAUSE)

    def end(self) -> None:
        """Let it end in order, and none follow."""
        self._ending = True
        if self._ours is not None:
            with contextlib.suppress(OSError):
                self._ours.shutdown(socket.SHUT_RDWR)

    async def _live(self) -> int:
        self._ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tidings.flood.worker", self._duty, str(theirs.fileno())]
        with theirs, self._log.open("ab") as words:
            # A session of its own: Ctrl-C is for the flood, which ends the workers in order.
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=words, stderr=words, pass_fds=[theirs.fileno()], start_new_session=True
            )
        try:
            await self._listen(self._ours)
            return await self._ended(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _listen(self, ours: socket.socket) -> None:
        """Until the process has closed its end, which it does by ending."""
        reader, writer = await asyncio.open_connection(sock=ours)
        with contextlib.suppress(ConnectionError):  # as good as its end
            while line := await reader.readline():
                if "ready" in json.loads(line):
                    self.ready.set()
        writer.close()

    async def _ended(self, process: Process) -> int:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                return await process.wait()
        process.kill()
        return await process.wait() or DRAINED

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing."


@contextlib.asynccontextmanager
async def working(duty: Duty, folder: Path, *, workers: int) -> AsyncGenerator[list[Hand]]:
    """So many processes work while the block lasts. Raises ConfigError, in an exception group."""
    hands = [Hand(number, duty, folder) for number in range(workers)]
    async with asyncio.TaskGroup() as group:
        for number, hand in enumerate(hands):
            group.create_task(hand.keep(), name=f"worker {number}")
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(hand.ready.wait() for hand in hands))
            yield hands
        finally:
            for hand in hands:
                hand.end()


def how(code: int) -> str:
    """The end of a process in words."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
