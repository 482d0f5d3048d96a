"""10b: the disk gives I/O errors, refuses to let a file grow, or cannot be written at all.

A worker may write no file beyond a size (EFBIG, which SQLite reports as an I/O error): it ends, and says why. Another
one without that limit does the rest. A disk that is read-only is told when the file is opened. That nothing is written
after the n-th write or sync has failed is tried for some n here, in a process of its own with a layer under SQLite
(`tests/storage/failing.py`, which by itself tries every n).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
from pathlib import Path

import pytest

from tests.matrix import Figures, Row, filing
from tests.matrix.filing import PAGE, Filed
from tests.matrix.site import Site, doubled
from tests.storage.mount import disk, remount
from tests.storage.survey import run as run_module
from tests.storage.vfs import reachable
from tidings.errors import StorageReadOnly

EVENTS = 300
LIMIT = 1 << 20


async def too_large(folder: Path) -> Figures:
    """The log has grown beyond what the worker may write when it comes to settle."""
    async with Site(folder, filing.__name__) as site:
        return await beyond(site)


async def beyond(site: Site) -> Figures:
    """What a worker does that is limited, and one that is not."""
    worker = await site.start(limits={resource.RLIMIT_FSIZE: LIMIT})
    async with site.publisher() as publisher:
        for first in range(0, EVENTS, 20):
            numbers = range(first, first + 20)
            await asyncio.gather(*(publisher.publish(Filed(key=f"k{n % 20}", number=n, text=PAGE)) for n in numbers))
        code = await worker.ended()
        assert code == 1
        said = worker.log.read_text()
        assert "disk I/O error" in said, said
        assert "tidings doctor" in said, said
        before = len(site.effects())
        await publisher.publish(Filed(key="k", number=EVENTS, text=PAGE))
    again = await site.start()
    await site.drained()
    numbers = [each.number for each in site.effects()]
    assert set(numbers) == set(range(EVENTS + 1))
    assert doubled(numbers) == 0
    assert site.rows("PRAGMA integrity_check") == [("ok",)]
    assert await again.stop() == 0
    return {"exit code at EFBIG": code, "events": EVENTS + 1, "handled before it": before, "lost": 0, "doubled": 0}


async def read_only(folder: Path) -> Figures:
    """Who opens the file on a disk that cannot be written is told, and it goes on when it can."""
    with disk(folder / "disk", "8m") as mounted:
        if not mounted:
            assert os.geteuid() != 0 or "CI" not in os.environ, "root could not mount a disk"
            return {"read-only, left out": "mounting needs root"}
        (folder / "site").mkdir()
        (folder / "site" / "tidings.db").symlink_to(folder / "disk" / "tidings.db")
        async with Site(folder / "site", filing.__name__) as site:
            await site.publish([Filed(key="k", number=0)])
            remount(folder / "disk", "ro")
            code = await (worker := await site.launch()).ended()
            assert code not in (0, -6, -11), code
            assert "cannot be written" in worker.log.read_text()
            with pytest.raises(StorageReadOnly):
                await site.publish([Filed(key="k", number=1)])
            remount(folder / "disk", "rw")
            await site.start()
            await site.drained()
            assert [each.number for each in site.effects()] == [0]
    return {"exit code where it is read-only": code}


async def failing() -> Figures:
    """Some of the writes and syncs of a journey fail, one in each run."""
    if not reachable():
        return {"failing writes, left out": "this SQLite is built into the interpreter"}
    runs = await asyncio.gather(*(failing_at(kind, step) for kind, step in (("sync", 20), ("write", 140))))
    return {"runs with a failing sync": runs[0], "runs with a failing write": runs[1], "went on after one": 0}


async def failing_at(kind: str, step: int) -> int:
    """How many runs there were."""
    done = await asyncio.to_thread(run_module, "failing", kind, "--first=2", f"--step={step}")
    found = json.loads(done.stdout)
    assert found["wrong"] == {}
    return int(found["runs"])


async def run(folder: Path) -> Figures:
    (folder / "large").mkdir()
    each = await asyncio.gather(too_large(folder / "large"), read_only(folder), failing())
    return {name: value for figures in each for name, value in figures.items()}


ROW = Row(
    "10b",
    "I/O errors: a file that may not grow (EFBIG), a read-only disk, the n-th write or fsync fails",
    "nothing is written after the failure; publishers and workers are told, the worker ends with a code, nothing "
    "acknowledged is lost and another worker does the rest",
    run,
)
