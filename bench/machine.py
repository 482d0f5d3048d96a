"""What the figures were taken on: the class of machine, and a disk on which fsync means something."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

IN_MEMORY = {"tmpfs", "ramfs"}
BUSY = 0.7


def disk() -> Path:
    """A folder for temporary files that is on a disk: TMPDIR, or else /var/tmp, or else the working folder.

    Where all are in memory it is TMPDIR: then durability costs nothing, and the figures say so little.
    """
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]  # noqa: S108 - on disk where /tmp is not
    usable = [path for path in candidates if os.access(path, os.W_OK)]
    return next((path for path in usable if file_system(path) not in IN_MEMORY), candidates[0])


def file_system(path: Path) -> str:
    """The kind of file system of a folder, such as ext4."""
    table = Path("/proc/mounts")
    kinds = (
        {fields[1]: fields[2] for fields in map(str.split, table.read_text().splitlines())} if table.exists() else {}
    )
    above = (str(parent) for parent in (path.resolve(), *path.resolve().parents))
    return next((kinds[parent] for parent in above if parent in kinds), "unknown file system")


def busy() -> float:
    """How many programs of others want a core, on average over the last minute."""
    return os.getloadavg()[0]


def warn(tell: Callable[[str], None]) -> None:
    """Say so where others work beside us."""
    if busy() > BUSY:
        tell(f"the machine is busy (load {busy():.1f}): trust the CPU, little else, and no latency")


def described() -> str:
    """One line for a document: no host name, no path."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {file_system(disk())}, {platform.system()} "
        f"{platform.release().partition('-')[0]}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
