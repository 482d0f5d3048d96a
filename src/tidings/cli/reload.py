"""Which Python files have changed, by looking now and then: no dependency, and works on every file system."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Iterable

EVERY = 0.5


async def changes(folders: Callable[[], Iterable[str]], every: float = EVERY) -> AsyncGenerator[list[str]]:
    """The names of .py files that were changed, added or removed, each time that some were. `every` in seconds.

    `folders` is asked at each look; what is in a folder when it is new there has not changed.
    """
    seen: dict[str, dict[str, int]] = {}
    while True:
        changed: set[str] = set()
        for folder in folders():
            now = stamps(folder)
            before = seen.get(folder, now)
            changed |= {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}
            seen[folder] = now
        if changed:
            yield sorted(changed)
        await asyncio.sleep(every)


def stamps(folder: str) -> dict[str, int]:
    """When each .py file right in this folder was last changed, in nanoseconds; nothing where there is no folder."""
    found: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                found[entry.name] = entry.stat().st_mtime_ns
    return found
