"""The worker processes of the demo, as the stage sees them: started, killed, started again, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from tidings.cli.demo.place import Place
from tidings.cli.demo.worker import HOLD, Figures, Report
from tidings.errors import TidingsError

PATIENCE = 120.0
"""Seconds for a worker to start, and to end."""
FALLS = 3
"""How often a worker may die of itself before the demo gives up."""
LAST_LINES = 12
REPORT = msgspec.json.Decoder(Report)


class WorkerDied(TidingsError):
    """A worker process ends whatever is done. What it said last is in the message."""


class Hand:
    """A worker process, and those that follow it when it dies."""

    def __init__(self, name: str, services: Sequence[str], happened: Callable[[str], None]) -> None:
        self.name = name
        self.services = services
        self.pid: int | None = None
        self.ready = asyncio.Event()
        self._happened = happened
        self._now: dict[str, Figures] = {}
        self._before: dict[str, Figures] = {}
        self._holding: asyncio.Future[int] | None = None
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._killed = False
        self._ending = False

    @property
    def figures(self) -> dict[str, Figures]:
        """By handler, summed over all lives."""
        return total(self._before, self._now)

    async def keep(self, settings: str, log: Path, pause: float) -> None:
        """Keep a process running until `end`, with a pause between two lives. Raises WorkerDied."""
        falls = 0
        while not self._ending:
            await self._live(settings, log)
            falls += not (self._killed or self._ending)
            if falls == FALLS:
                raise WorkerDied(f"The worker {self.name!r} ends whatever is done:\n{last_words(log)}")
            self._before = {name: done.left_behind() for name, done in self.figures.items()}
            self._now, self._killed = {}, False
            if not self._ending:
                await asyncio.sleep(pause)

    async def kill(self) -> tuple[int, int]:
        """Kill it with SIGKILL as soon as it has work in hand; returns its process id and how many events that was."""
        await self.ready.wait()
        assert self._process is not None
        assert self._writer is not None
        self._holding = asyncio.get_running_loop().create_future()
        self._writer.write(HOLD)
        in_hand = await self._holding
        self._killed = True
        self._process.kill()
        return self._process.pid, in_hand

    def end(self) -> None:
        """Let it end in order, and none follow."""
        self._ending = True
        if self._writer is not None:
            self._writer.close()

    async def _live(self, settings: str, log: Path) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tidings.cli.demo.worker", settings, str(theirs.fileno()), *self.services]
        with theirs, log.open("ab") as words:
            # A session of its own: Ctrl-C is for the stage, which ends the workers in order.
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=words, stderr=words, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self.pid = self._process.pid
        try:
            await self._listen(ours)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._process.wait()
        finally:
            self.ready.clear()
            self.pid = None
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def _listen(self, ours: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=ours)
        with contextlib.suppress(ConnectionError):  # as good as its end
            while line := await reader.readline():
                self._hear(REPORT.decode(line))
        self._writer.close()

    def _hear(self, report: Report) -> None:
        self._now = report.handlers
        if not self.ready.is_set():
            self.ready.set()
            if self._before:
                self._happened(f"{self.name} is back, as process {self.pid}")
        if report.holding and self._holding is not None:
            self._holding.set_result(report.holding)
            self._holding = None


class Crew:
    """All worker processes. `happened` is told what befalls them, in words."""

    def __init__(self, rota: Mapping[str, Sequence[str]], happened: Callable[[str], None], pause: float) -> None:
        self.hands = [Hand(name, services, happened) for name, services in rota.items()]
        self.kills = 0
        self._happened = happened
        self._pause = pause
        self._turn = 0

    @contextlib.asynccontextmanager
    async def working(self, place: Place) -> AsyncGenerator[None]:
        """All processes work while the block lasts. Raises WorkerDied, in an exception group."""
        settings = msgspec.json.encode(place.settings).decode()
        async with asyncio.TaskGroup() as group:
            for hand in self.hands:
                group.create_task(hand.keep(settings, place.folder / f"{hand.name}.log", self._pause), name=hand.name)
            try:
                await self._all_ready()
                yield
            finally:
                for hand in self.hands:
                    hand.end()

    async def _all_ready(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(hand.ready.wait() for hand in self.hands))
        except TimeoutError:
            late = ", ".join(hand.name for hand in self.hands if not hand.ready.is_set())
            raise WorkerDied(f"These workers have not started within {PATIENCE:g} s: {late}.") from None

    async def next_victim(self) -> Hand:
        """The worker whose turn it is to be killed, at work."""
        hand = self.hands[self._turn % len(self.hands)]
        self._turn += 1
        await hand.ready.wait()
        return hand

    async def kill(self, hand: Hand) -> int:
        """Kill the worker (-9) as soon as it has work in hand; returns its process id."""
        pid, in_hand = await hand.kill()
        self.kills += 1
        self._happened(f"{hand.name} gets a kill -9, with {in_hand:,} events in hand")
        return pid

    @property
    def figures(self) -> dict[str, Figures]:
        """By handler, summed over all processes."""
        return total(*(hand.figures for hand in self.hands))

    def at(self, service: str) -> list[Hand]:
        """Who runs a service."""
        return [hand for hand in self.hands if service in hand.services]


def total(*parts: Mapping[str, Figures]) -> dict[str, Figures]:
    """The figures of each handler, summed."""
    summed: dict[str, Figures] = {}
    for part in parts:
        for name, figures in part.items():
            summed[name] = summed[name] + figures if name in summed else figures
    return summed


def last_words(log: Path) -> str:
    """The end of what a worker wrote."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
