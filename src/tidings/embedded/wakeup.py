"""How readers hear of a commit: one byte written to `<file>.notify` after it, watched by inotify.

The database and its WAL are not watched: under FULL the write comes before the commit can be seen, and wake-ups are
lost. Where there is no inotify, readers poll.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

IN_MODIFY = 2
POLL_WITHOUT_INOTIFY = 0.02


class Wakeup:
    """Tells `heard()` on the event loop that somebody signalled, in this process or another."""

    def __init__(self, path: Path, heard: Callable[[], None]) -> None:
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._watch = watch(path)
        if self._watch is not None:
            self._loop.add_reader(self._watch, self._drain)

    @property
    def polling(self) -> bool:
        """Whether readers have to poll."""
        return self._watch is None

    def signal(self) -> None:
        """Wake every reader of the file. Safe from any thread."""
        os.pwrite(self._file, b"!", 0)
        if self._watch is None:
            self._loop.call_soon_threadsafe(self._heard)

    def _drain(self) -> None:
        assert self._watch is not None
        try:
            os.read(self._watch, 65536)
        except BlockingIOError:
            return
        self._heard()

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._loop.remove_reader(self._watch)
            os.close(self._watch)
            self._watch = None
        os.close(self._file)


def watch(path: Path) -> int | None:
    """A file descriptor that can be read when the file was written to; None where there is no inotify."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    file: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if file < 0:
        return None
    if libc.inotify_add_watch(file, os.fsencode(path), IN_MODIFY) < 0:
        os.close(file)
        return None
    return file
