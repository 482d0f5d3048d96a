"""What one round of one side reads: a figure, the CPU it took, and what else is worth telling."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec


class Reading(msgspec.Struct):
    """One round of one side. `cpu` is in µs of all threads of the process per event; `more` holds further figures."""

    value: float
    cpu: float = 0.0
    more: dict[str, float] = {}


class Task(msgspec.Struct, frozen=True):
    """What a round gets: a folder of its own on disk, the folder that all rounds share, and how much to do.

    `scale` is 1.0 for a real run; a test uses less. `server` is the URL of the server, where there is one.
    """

    folder: Path
    shared: Path
    scale: float = 1.0
    server: str = ""


class Watch:
    """Wall clock and CPU of the process from when it is made."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def rate(self, events: int) -> Reading:
        """Events a second until now, and the CPU of one."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Reading(events / wall, cpu / events * 1e6)
