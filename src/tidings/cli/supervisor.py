"""Keeps worker processes alive: starts them, starts them again when they die, ends them in order.

A worker process is `tidings run` with two more options: a socket over which it tells that it is ready, and at whose end
it ends itself, so that none outlives its supervisor; and a file in which it notes what it is about, so that the others
can be told, over theirs, how a process ended that was handling an event (see `tidings.inquest`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tidings.cli.main import WRONG
from tidings.cli.recorder import Try, last_words, memory
from tidings.cli.reload import changes
from tidings.inquest import manner
from tidings.runtime import DRAINED, FAILED, GAVE_UP

log = logging.getLogger("tidings")

FIRST, MOST = 0.1, 10.0
"""Seconds to wait before a dead worker is started again: at first, and at most."""
MARGIN = 12.0
"""Seconds beyond the grace time before a worker is killed; after ten it ends itself, if it can do anything at all."""
NOTHING_BEGUN = {-signal.SIGTERM, -signal.SIGINT, 130}
"""How a worker ends that was told to stop before it had started."""


class Deaths:
    """How tries ended that ended their process, for all workers, those to come too."""

    def __init__(self) -> None:
        self._known: deque[Try] = deque(maxlen=1000)
        self._writers: set[asyncio.StreamWriter] = set()

    def join(self, writer: asyncio.StreamWriter) -> None:
        """A worker listens there."""
        self._writers.add(writer)
        self._tell([writer], list(self._known))

    def leave(self, writer: asyncio.StreamWriter) -> None:
        """It does no more."""
        self._writers.discard(writer)

    def add(self, tries: Sequence[Try], how: str) -> None:
        """A process ended like this while it was about these."""
        known = [msgspec.structs.replace(of, cause=f"{of.cause} ({how})" if of.cause else how) for of in tries]
        self._known.extend(known)
        self._tell(list(self._writers), known)

    @staticmethod
    def _tell(writers: Sequence[asyncio.StreamWriter], tries: Sequence[Try]) -> None:
        for writer in writers if tries else ():
            writer.write(msgspec.json.encode(tries) + b"\n")


class Slot:
    """One worker process after another. `code` is how the last one ended."""

    def __init__(self, command: Sequence[str], stop: asyncio.Event, deaths: Deaths, *, patient: bool) -> None:
        self.code = DRAINED
        self._deaths = deaths
        self.folders: set[str] = set()
        self._command = command
        self._stop = stop
        self._patient = patient
        self._over = asyncio.Event()
        self._grace = 0.0
        self._ready = self._was_ready = False
        self._reloading = False

    def end(self) -> None:
        """Let the worker end in order; a new one follows only if that is not the end of all."""
        self._over.set()

    def reload(self) -> None:
        """Let a new worker follow this one, or the one that could not start."""
        self._reloading = True
        self._over.set()

    async def keep(self) -> None:
        """Keep a worker running until `stop` is set."""
        pause = FIRST
        while not self._stop.is_set():
            began = time.monotonic()
            self.code = await self._live()
            if self._stop.is_set():
                return
            if self._reloading:
                self._reloading = False
                self._over.clear()
                continue
            if self.code == WRONG and not self._was_ready and not self._patient:
                self._stop.set()  # what was asked for cannot be, and will not be at the next try
                return
            pause = FIRST if time.monotonic() - began > MOST else pause
            await self._pause(pause)
            pause = min(2 * pause, MOST)

    async def _pause(self, seconds: float) -> None:
        if self._patient and not self._ready:
            log.warning("a worker could not start (%s); it is tried again when a file changes", manner(self.code))
            await self._over.wait()
        else:
            log.warning("a worker ended with %s and is started again in %g s", manner(self.code), seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._over.wait()
        if not self._stop.is_set():
            self._reloading = False
            self._over.clear()

    async def _live(self) -> int:
        """The life of one process; returns how it ended."""
        self._ready = False
        with memory() as notes:
            code = await self._run(notes.fileno())
            if not self._over.is_set():
                self._deaths.add(last_words(notes), manner(code))
        return code

    async def _run(self, notes: int) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*self._command, f"--lifeline={theirs.fileno()}", f"--recorder={notes}"]
            try:
                process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno(), notes])
            except OSError as error:
                ours.close()
                log.warning("no worker could be started: %s", error)
                return FAILED
        listening = asyncio.create_task(self._listen(ours), name=f"lifeline of {process.pid}")
        dying = asyncio.create_task(process.wait(), name=f"worker {process.pid}")
        ending = asyncio.create_task(self._over.wait(), name=f"end of {process.pid}")
        try:
            await asyncio.wait([dying, ending], return_when=asyncio.FIRST_COMPLETED)
            if not dying.done():
                await self._finish(process, dying)
            return await dying
        finally:
            ending.cancel()
            listening.cancel()

    async def _finish(self, process: Process, dying: asyncio.Task[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            done, _ = await asyncio.wait([dying], timeout=self._grace + MARGIN)
            if not done:
                log.critical("worker %d does not end in its grace time and is killed", process.pid)
                process.kill()

    async def _listen(self, ours: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=ours)
        self._deaths.join(writer)
        try:
            while line := await reader.readline():
                told = json.loads(line)
                if "ready" in told:
                    self._ready = self._was_ready = True
                else:
                    self._grace = told["grace"]
                    self.folders.update(told["folders"])
        except ConnectionError:
            pass  # the worker is dead, which is seen elsewhere
        finally:
            self._deaths.leave(writer)
            writer.close()


class Supervisor:
    """Runs `workers` processes. `command(index)` is the command line of each.

    `reload` names the modules (`module:app`) whose folders are watched; none for no watching.
    """

    def __init__(self, command: Callable[[int], Sequence[str]], *, workers: int, reload: Sequence[str] = ()) -> None:
        self._stop = asyncio.Event()
        self._targets = reload
        deaths = Deaths()
        self._slots = [Slot(command(index), self._stop, deaths, patient=bool(reload)) for index in range(workers)]

    async def run(self) -> int:
        """Keep the workers running until SIGTERM or SIGINT; returns the exit code."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        async with asyncio.TaskGroup() as group:
            for slot in self._slots:
                group.create_task(slot.keep())
            watching = group.create_task(self._watch()) if self._targets else None
            await self._stop.wait()
            if watching is not None:
                watching.cancel()
            for slot in self._slots:
                slot.end()
        return verdict([slot.code for slot in self._slots])

    async def _watch(self) -> None:
        async for names in changes(self._folders):
            log.info("%s changed: the workers are started again", ", ".join(names))
            for slot in self._slots:
                slot.reload()

    def _folders(self) -> set[str]:
        here = Path.cwd()
        modules = [target.partition(":")[0].split(".") for target in self._targets]
        guessed = {str(here.joinpath(*names[:-1])) for names in modules} | {str(here.joinpath(*n)) for n in modules}
        return guessed.union(*(slot.folders for slot in self._slots))


def verdict(codes: Sequence[int]) -> int:
    """The exit code of all: 0 only if each worker has settled all that it had begun, 3 if one had to give it up."""
    ended = [DRAINED if code in NOTHING_BEGUN else code for code in codes]
    if GAVE_UP in ended or -signal.SIGKILL in ended:
        return GAVE_UP
    if WRONG in ended:
        return WRONG
    return FAILED if any(ended) else DRAINED
