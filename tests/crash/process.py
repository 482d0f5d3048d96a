"""A process of a run: started, killed, frozen, told to stop, and what it died of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import IO

import msgspec

from tests.crash.plan import PUBLISHER, Plan

ROOT = Path(__file__).parents[2]


class Child:
    """A place for a process, in which the next one is started when one has died. Signals go nowhere else."""

    def __init__(self, role: str, index: int) -> None:
        self.role = role
        self.index = index
        self.point: str | None = None
        """The named place at which the process is to die."""
        self.finished = False
        self._process: asyncio.subprocess.Process | None = None
        self._signalled: signal.Signals | None = None

    async def start(self, plan: Plan, folder: Path, *, log: IO[bytes], passage: int) -> None:
        """Start a process, which dies at the given passage of `point`, if any. It ends when we do."""
        self._signalled = None
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "src")))
        if self.point is not None:
            environment["TIDINGS_FAILPOINT"] = f"{self.point}:{passage}=kill"
        arguments = [msgspec.json.encode(plan).decode(), *([str(self.index)] if self.role == PUBLISHER else [])]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"tests.crash.{self.role}", *arguments,
            cwd=folder, env=environment, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip

    async def wait(self) -> int:
        """Its exit code; the negative number of a signal."""
        assert self._process is not None
        return await self._process.wait()

    @property
    def pid(self) -> int:
        """Of the last process here."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    @property
    def well(self) -> bool:
        """Whether there is a process that nobody has signalled."""
        return self.running and self._signalled is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and remember it as the cause of what follows."""
        if self.running:
            self._signalled = number
            self._send(number)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        if self.running:
            self._send(signal.SIGCONT)
            self._signalled = None if self._signalled is signal.SIGSTOP else self._signalled

    def _send(self, number: signal.Signals) -> None:
        """Not by Process.send_signal: that may reap the process, and then nobody learns what it died of."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def cause(self, code: int) -> str | None:
        """What it died of: the role for a kill at random, the named place, "" for an end in order; None for its own."""
        if code == -signal.SIGKILL:
            return self.role if self._signalled is signal.SIGKILL else self.point
        in_order = self._signalled is signal.SIGTERM or self.role == PUBLISHER
        return "" if code == 0 and in_order else None
