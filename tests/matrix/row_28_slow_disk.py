"""28: every fsync of the workers takes long; a publisher waits for the lock that they hold meanwhile.

A library that is loaded before the system's (LD_PRELOAD) stands before fsync and fdatasync, so that program, driver,
SQLite and file are those of users. The lease is short, and the work lasts for several of them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.matrix import Figures, Row
from tests.matrix.site import Site, by_key, doubled, effect, inversions, note
from tidings import App, Event, Start

PUBLISHERS = 3


class Pace(NamedTuple):
    """How slow the disk is, how short the lease and for how long there is work; seconds all."""

    delay: float
    lease: float
    lasts: float


PACE = Pace(0.1, 3.0, 5.0)
SLOW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
static int slowly(const char *name, int file) {
    int (*below)(int) = dlsym(RTLD_NEXT, name);
    int count = open(getenv("SLOW_SYNCS"), O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (write(count, ".", 1) < 0) abort();
    close(count);
    usleep(%d);
    return below(file);
}
int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
"""


class Filed(Event, name="paper.filed", key="key"):
    key: str
    number: int


class Stamped(Event, name="paper.stamped", key="key"):
    key: str
    number: int


app = App("shop")


@app.on(Filed, start=Start.EARLIEST, timeout=1.0)
async def stamp(filed: Filed) -> Stamped:
    note("begun", filed.key, filed.number)
    return Stamped(key=filed.key, number=filed.number)


@app.on(Stamped, start=Start.EARLIEST)
def file(stamped: Stamped, db: sqlite3.Connection) -> None:
    effect(db, "file", stamped.key, stamped.number)


def slow(folder: Path, delay: float) -> Mapping[str, str]:
    """The variables with which a process has a slow disk; none where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        assert "CI" not in os.environ, "there is no C compiler"
        return {}
    (source := folder / "slow.c").write_text(SLOW % int(delay * 1e6))
    library = folder / "slow.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True)
    return {"LD_PRELOAD": str(library), "SLOW_SYNCS": str(folder / "syncs")}


async def publish(site: Site, lasts: float) -> list[float]:
    """Side by side, one after another each, for a while; how long each took."""
    ends, numbers = time.monotonic() + lasts, itertools.count()
    took: list[float] = []
    async with site.publisher() as publisher:

        async def tell(key: int) -> None:
            while (began := time.monotonic()) < ends:
                await publisher.publish(Filed(key=f"k{key}", number=next(numbers)))
                took.append(time.monotonic() - began)

        await asyncio.gather(*map(tell, range(PUBLISHERS)))
    return took


async def check(folder: Path, pace: Pace) -> Figures:
    variables = slow(folder, pace.delay)
    if not variables:
        return {"left out": "there is no C compiler"}
    async with Site(folder, __name__, lease=pace.lease) as site, site.publisher():
        workers = [await site.start(variables=variables) for _ in range(2)]
        began, before = time.monotonic(), synced(folder)
        took = await publish(site, pace.lasts)
        await site.drained()
        syncs, lasted = synced(folder) - before, time.monotonic() - began
        assert syncs * pace.delay > pace.lasts / 3, "the disk was not slow"
        assert lasted > 1.5 * pace.lease
        begun, effects = site.notes("begun"), site.effects()
        assert [await worker.stop() for worker in workers] == [0, 0]
        said = [line for worker in workers for line in worker.logged("")]
    assert not [line for line in said if "lost its parts" in line or "waits for its" in line], said
    assert sorted(each.number for each in begun) == list(range(len(took))), "something came again, or never"
    assert sorted(each.number for each in effects) == list(range(len(took)))
    assert inversions(by_key(effects).values()) == 0
    return {
        "fsyncs": syncs, "events handled twice over": len(took), "events/s": 2 * len(took) / lasted,
        "publish, s, p50": statistics.median(took), "and at most": max(took), "leases lost": 0,
        "publishes refused": 0, "time limits run out": len(site.letters("shop.stamp")), "lent again": 0,
        "duplicate effects": doubled(each.number for each in effects), "inversions": 0,
    }  # fmt: skip


def synced(folder: Path) -> int:
    """How often a worker has called fsync."""
    return (folder / "syncs").stat().st_size


async def run(folder: Path) -> Figures:
    return await check(folder, PACE)


ROW = Row(
    "28",
    f"every fsync of the workers takes {PACE.delay:g} s, under a lease of {PACE.lease:g} s and a time limit of 1 s",
    "commits are fewer, and publishers wait for theirs; no lease and no time limit runs out, nothing is lent again",
    run,
)
