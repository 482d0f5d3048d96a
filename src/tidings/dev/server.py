"""The life of a real server: started in a folder of its own, asked whether it answers, killed, frozen and ended.

What differs from server to server is in a module each: how to find it, how to run it durably, how to greet it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self

from tidings.dev import leash
from tidings.errors import BrokerError, ConfigError

LOWEST, HIGHEST = 10_000, 32_000
"""Below what systems give to connections that go out: a client that tries again and again to reach a port which no
server holds just now may otherwise be given that very port, talk to itself, and keep the server from coming back."""
PAUSE = 0.02
TAIL = 2_000
GREETING = 2.0
"""Seconds that a greeting may take: a server that stands still is as good as none."""


def free_port(wished: int = 0) -> int:
    """A TCP port of the loopback address that nobody listens on: the wished one if it is free."""
    candidates = [wished] if wished else []
    candidates += [LOWEST + secrets.randbelow(HIGHEST - LOWEST) for _ in range(200)]
    for port in candidates:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise BrokerError(f"No free port between {LOWEST} and {HIGHEST} on 127.0.0.1.")


def _temporary(kind: str) -> Path:
    """A folder that nobody has; it is made when the server starts."""
    return Path(tempfile.gettempdir()).absolute() / f"tidings-{kind}-{secrets.token_hex(6)}"


class Server(ABC):
    """A server on this machine, on loopback, with data that survives its death. For one thread at a time.

    `folder` holds its data and `server.log`; without one it has a temporary folder, which `close` removes. `settings`
    are the server's own, in its own words, over ours, which are the durable ones. It ends when this process ends, also
    by kill -9. `port` stays the same over a restart.
    """

    kind: ClassVar[str]
    usual_port: ClassVar[int]
    patience: ClassVar[float] = 30.0
    """Seconds until it has to answer."""
    farewell: ClassVar[int] = signal.SIGTERM
    """The signal for an orderly end."""
    packages: ClassVar[Mapping[str, str]] = {}
    """Debian's packages that it needs, by a program that each of them brings."""

    def __init__(self, folder: Path | None = None, *, port: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        self.port = port or free_port()
        self.settings = dict(settings or {})
        self.temporary = folder is None
        self.folder = folder.absolute() if folder else _temporary(self.kind)
        self._process: subprocess.Popen[bytes] | None = None

    def lead(self, port: int) -> int:
        """Before it starts: clients will come through a proxy at `port`. Returns the port to which that has to lead."""
        return self.port

    @classmethod
    @abstractmethod
    def needs(cls) -> str | None:
        """What is missing on this machine, as a sentence with the line that installs it; None where it can start."""

    @classmethod
    def fetch(cls) -> None:
        """Get what comes from elsewhere than from a package. Raises ConfigError where there is nothing to get."""
        missing = cls.needs()
        if missing is not None:
            raise ConfigError(missing)

    @property
    @abstractmethod
    def url(self) -> str:
        """What to give to an App or a client."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The program and its arguments; it stays in the foreground."""

    @abstractmethod
    def _greets(self, peer: socket.socket) -> bool:
        """Whether the server on this connection is ready for clients. May raise OSError."""

    def _prepare(self) -> None:
        """Make its folder and what has to be in it, before each start."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _environment(self) -> dict[str, str]:
        """The variables of its environment over those of this process."""
        return {}

    @property
    def log(self) -> Path:
        """The file with what it says."""
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start it and wait until it answers; nothing if it runs. Returns the URL.

        Raises ConfigError where it is not installed, BrokerError with the end of its log if it does not answer.
        """
        if self.running:
            return self.url
        missing = self.needs()
        if missing is not None:
            raise ConfigError(missing)
        if free_port(self.port) != self.port:  # or who answers there would be taken for ours
            raise BrokerError(f"Port {self.port} of 127.0.0.1 is taken: {self.kind} cannot start there.")
        self._forget()
        self._prepare()
        self._spawn()
        try:
            self._wait()
        except BaseException:
            self.kill9()
            raise
        return self.url

    def stop(self) -> None:
        """End it in order, which takes at most ten seconds; its data stays. Nothing if it does not run."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has just ended
                self._process.stdin.write(b".")
                self._process.stdin.flush()
            self._process.wait()
            self._forget()

    def kill9(self) -> None:
        """Kill it with all its processes, at once; its data stays as it is. Nothing if it does not run."""
        if self._process is not None:
            leash.signal_tree(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._forget()

    def restart(self) -> str:
        """Stop it if it runs, and start it on the same port and data."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it; remove its folder if that is a temporary one."""
        self.stop()
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def answers(self) -> bool:
        """Whether it is ready for clients, by its own protocol."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), GREETING) as peer:
            return self._greets(peer)
        return False

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise BrokerError(f"{self.kind} does not run.")
        leash.signal_tree(self._process.pid, number)

    def _spawn(self) -> None:
        """Start the leash, which starts the server; both in a session of their own, away from Ctrl-C."""
        lock = self._lock()
        watched = [str(os.getpid()), str(int(self.farewell)), str(self.folder) if self.temporary else ""]
        with lock, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, *watched, *self._command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment()},
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )

    def _lock(self) -> IO[bytes]:
        """The folder is this server's; the leash holds the lock, so that it is free when all processes are gone."""
        lock = (self.folder / "server.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise BrokerError(f"Another server runs on {self.folder}: stop it, or take another folder.") from None
        return lock

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.patience
        while not self.answers():
            if self._process.poll() is not None:
                raise BrokerError(f"{self.kind} ended with exit code {self._process.returncode}. {self._last_words()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"{self.kind} did not answer within {self.patience:g} s. {self._last_words()}")
            time.sleep(PAUSE)

    def _last_words(self) -> str:
        text = self.log.read_text(errors="replace")[-TAIL:].strip()
        return f"Its log ends with:\n{text}" if text else "Its log is empty."

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process = None
