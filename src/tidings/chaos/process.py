"""A process of a run: started, killed, frozen, told to stop, and what it died of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import IO

import tidings
from tidings.chaos.plan import PUBLISHER
from tidings.failpoint import VARIABLE

LIBRARY = Path(tidings.__file__).parents[1]


class Child:
    """A place for a process, in which the next one is started when one has died. Signals go nowhere else."""

    def __init__(self, role: str, index: int) -> None:
        self.role = role
        self.index = index
        self.place: str | None = None
        """The named place at which the process is to die."""
        self.finished = False
        self.deaths = 0
        self.kept = False
        """Whether somebody starts it again."""
        self.memory_peak: int | None = None
        """Bytes; the most of all processes here, as far as anybody looked."""
        self._process: asyncio.subprocess.Process | None = None
        self._signalled: signal.Signals | None = None

    @contextlib.asynccontextmanager
    async def living(
        self, arguments: Sequence[str], folder: Path, log: IO[bytes], *, passage: int
    ) -> AsyncGenerator[asyncio.subprocess.Process]:
        """A process, which dies at this passage of `place`, if any. It is gone when the block ends, or when we are.

        It has a process group of its own in our session: Ctrl-C is for us, and where we are killed, the kernel wakes
        those that are frozen and hangs them up.
        """
        self._signalled = None
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"tidings.chaos.{self.role}", *arguments,
            cwd=folder, env=self._environment(passage), process_group=0,
            stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield self._process
        finally:
            self.send(signal.SIGKILL)
            await self._process.wait()

    def _environment(self, passage: int) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        path = [str(LIBRARY), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        if self.place is not None:
            environment[VARIABLE] = f"{self.place}:{passage}=kill"
        return environment

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

    def send(self, number: signal.Signals) -> None:
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
        """What it died of: the role for a kill by us, the named place, "" for an end in order; None for its own."""
        if code == -signal.SIGKILL:
            return self.role if self._signalled is signal.SIGKILL else self.place
        in_order = self._signalled is signal.SIGTERM or self.role == PUBLISHER
        return "" if code == 0 and in_order else None

    def look(self) -> None:
        """Remember how much memory the process had at most, where the system tells."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.memory_peak = max(self.memory_peak or 0, int(line.split()[1]) * 1024)
