"""24: too little of what a process needs: file descriptors, threads, turns of the event loop.

Everything happens to one worker with `ulimit -n 64`; a second one stands by when the loop starves. While it lacks
something it waits or says what it lacks, and it goes on by itself when it is there again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.site import PATIENCE, Site, Worker, doubled, note, until
from tidings import App, Delivery, Event, Retry, Start, Tx

FILES = 64
TOO_FEW = (12, 15, 18, 20)
CLIENTS = 100
HELD = 1.0
THREADED = 60
STARVED = 2.5
LEASE = 1.0

app = App("shop")
tally = app.table("tally", list[int])


class Job(Event, name="job.given", key="key"):
    key: str
    number: int
    kind: str


@app.on(Job, concurrency=32, retry=Retry(times=20, first=0.2, factor=1.0), start=Start.EARLIEST)
async def work(job: Job, tx: Tx, delivery: Delivery) -> None:
    if job.kind == "hoard":
        note("begun", job.key, job.number, delivery.attempt)
        await hoard()
    elif job.kind == "open":
        note("begun", job.key, job.number, delivery.attempt)
    elif job.kind == "thread":
        await asyncio.to_thread(time.sleep, 0.1)
    elif job.kind == "starve" and not Path("starved").exists():  # noqa: ASYNC240
        Path("starved").touch()  # noqa: ASYNC240
        time.sleep(STARVED)  # noqa: ASYNC251 - the fault itself
    tx.put(tally, job.key, [*await tx.get(tally, job.key, []), job.number])


async def hoard() -> None:
    """Open files until there are no more, and keep them for a while."""
    files: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        await asyncio.sleep(HELD)
    finally:
        for file in files:
            os.close(file)


def jobs(kind: str, count: int, *, first: int) -> list[Job]:
    return [Job(key=f"{kind}{n % 40}", number=n, kind=kind) for n in range(first, first + count)]


async def at_start(site: Site) -> int:
    """With too few descriptors to begin at all: a sentence and a code, no worker that hangs."""
    for most in TOO_FEW:
        worker = await site.launch(limits={resource.RLIMIT_NOFILE: most})
        code = await worker.ended()
        assert code == 1, (most, code)
        said = worker.log.read_text()
        assert "error: " in said, (most, said)
        assert "ulimit -n" in said, (most, said)
        assert "Traceback" not in said, (most, said)
    return len(TOO_FEW)


async def files(site: Site, worker: Worker) -> Figures:
    """A handler takes every descriptor; those that need one fail, and are tried again."""
    await site.publish(jobs("hoard", 1, first=0))
    await until(lambda: len(site.notes("begun")) == 1)
    await site.publish(jobs("open", 40, first=100))
    await site.drained()
    return {"tries for want of a descriptor": len(worker.logged("tried again"))}


@contextlib.asynccontextmanager
async def clients(port: int) -> AsyncIterator[int]:
    """As many connections as the worker has no descriptors for."""
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(CLIENTS)]
    try:
        yield len(writers)
    finally:
        for writer in writers:
            writer.close()


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


async def becomes_ready(port: int) -> float:
    """The seconds until then."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(ready, port):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def accepting(site: Site, worker: Worker) -> Figures:
    """More clients than descriptors: events go on, and so do probes when the clients have gone."""
    (address,) = worker.logged("metrics and health on")
    port = int(re.findall(r"\d+$", address)[0])
    hoarded = await becomes_ready(port)
    async with clients(port) as count:
        await site.publish(jobs("any", 200, first=1000))
        await site.drained()
    return {"ready again after, s": hoarded, "clients at once": count, "and after that, s": await becomes_ready(port)}


async def threads(site: Site) -> Figures:
    """The loop's thread pool is full of what handlers wait for."""
    began = time.monotonic()
    await site.publish(jobs("thread", THREADED, first=2000))
    await site.drained()
    return {f"{THREADED} waits for a full thread pool, s": time.monotonic() - began}


async def starving(site: Site, worker: Worker) -> Figures:
    """The loop is blocked for longer than its lease: another process takes over, what it does late is not kept."""
    standby = await site.start()
    await site.publish([*jobs("starve", 40, first=3000), *jobs("any", 200, first=4000)])
    await until((site.folder / "starved").exists)
    blocked = time.monotonic()
    await site.drained()
    seconds = time.monotonic() - blocked
    await until(lambda: fenced(worker, standby))
    await site.publish(jobs("any", 200, first=5000))
    await site.drained()
    assert [await standby.stop(), await worker.stop()] == [0, 0]
    return {
        "loop blocked, s": STARVED,
        "done by another after, s": seconds,
        "late commits refused": fenced(worker, standby),
    }


def fenced(*workers: Worker) -> int:
    """How often one of them was told that it is too late."""
    said = ("lost its parts", "no longer holds")
    return sum(len(worker.logged(words)) for worker in workers for words in said)


async def run(folder: Path) -> Figures:
    async with Site(folder, __name__, lease=LEASE) as site:
        refused = await at_start(site)
        worker = await site.start("--metrics-port=0", limits={resource.RLIMIT_NOFILE: FILES})
        figures = {
            **await files(site, worker), **await accepting(site, worker), **await threads(site),
            **await starving(site, worker),
        }  # fmt: skip
        tallied, letters = site.tally("shop.tally"), site.letters("shop.work")
    assert not letters
    numbers = [number for row in tallied.values() for number in row]
    assert doubled(numbers) == 0
    assert len(numbers) == 1 + 40 + 200 + THREADED + 40 + 200 + 200
    return {"limits too low to start, said so": refused, **figures, "lost": 0, "duplicate effects": 0}


ROW = Row(
    "24",
    f"ulimit -n {FILES} and every descriptor taken, more clients than descriptors, a full thread pool, an event loop "
    "that is blocked for longer than its lease; too few descriptors to start",
    "it says what it lacks or waits, and goes on by itself; what a starved process does late is fenced; one effect "
    "each",
    run,
)
