"""17: a million events wait when the consumers start.

The log is filled by group commit and then drained twice, each time by one worker process in a group of its own: by an
`async def` handler that does nothing, and by a `def` handler that keeps each event in a table of its own. How far a
group is, is read from its position in the file; the lag that the worker's own metric tells is compared with that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import socket
import sqlite3
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from tests.matrix import Figures, Row
from tests.matrix.site import Site, Worker, doubled
from tidings import App, Event, Start

COUNT = 1_000_000
TOGETHER = 1000
KEYS = 10_000
LOOK = 0.02
SCRAPE = 1.0
PATIENCE = 600.0
STALL = 30.0
"""Seconds: between looks at the position and at the metric; for all of it, and without any progress."""
MEMORY = 60.0
STEADY = 0.9
LAG = 0.01
LATER = 1.0
IN_HAND = 4096
"""What must hold: MB above an idle worker; the last tenth beside the first; lag; seconds that a start takes longer; how
many events a worker has in hand."""
WHICH = "BACKLOG_HANDLER"
POSITION = """SELECT min(p.pos) FROM tidings_position p JOIN tidings_feed f ON f.id = p.feed
    JOIN tidings_group g ON g.id = f.grp JOIN tidings_topic t ON t.id = f.topic WHERE g.name = ? AND t.name = 'meter'"""


class Counted(Event, name="meter.counted", key="key"):
    key: str
    number: int
    text: str = "x" * 200


def build() -> App:
    """One handler at a time: which, the environment says."""
    made = App("meter")
    if os.environ.get(WHICH) == "hear":

        @made.on(Counted, start=Start.EARLIEST)
        async def hear(event: Counted) -> None:
            """Nothing."""

        return made

    @made.on(Counted, start=Start.EARLIEST)
    def book(event: Counted, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO kept VALUES (?, ?)", (event.number, event.text))

    return made


app = build()


class Seen(NamedTuple):
    """Seconds on the clock and of CPU, and how many were settled."""

    at: float
    cpu: float
    settled: int


class Drain(NamedTuple):
    """How a backlog went: `seen` has how many were settled at which time, and what CPU the worker had had by then."""

    ready: float
    seen: Sequence[Seen]
    count: int
    peak: float
    wal: float
    lag_off: float
    in_hand: float

    @property
    def rates(self) -> tuple[float, float]:
        """Events a second in the first tenth, from the first that was settled, and in the last."""
        return self._rates(0)

    @property
    def steady(self) -> tuple[float, float]:
        """The last tenth beside the first, by the clock and by the CPU, of which neighbours take nothing away."""
        by_clock, by_cpu = self._rates(0), self._rates(1)
        return by_clock[1] / by_clock[0], by_cpu[1] / by_cpu[0]

    def _rates(self, by: int) -> tuple[float, float]:
        count = self.count
        begin, first, last, end = (self._when(wanted, by) for wanted in (1, count / 10, 0.9 * count, count))
        return (count / 10 - 1) / (first - begin), count / 10 / (end - last)

    def _when(self, wanted: float, by: int) -> float:
        """When so many were settled: between two looks, in proportion."""
        for earlier, later in itertools.pairwise(self.seen):
            if earlier.settled < wanted <= later.settled:
                share = (wanted - earlier.settled) / (later.settled - earlier.settled)
                return earlier[by] + share * max(later[by] - earlier[by], 1e-6)
        raise AssertionError(f"{wanted} were never settled")


class Progress:
    """How far the group is, as the file says it, and how large its WAL was at most."""

    def __init__(self, site: Site, handler: str, count: int) -> None:
        self.wal = 0.0
        self._count = count
        self._handler = f"meter.{handler}"
        self._path = Path(f"{site.database}-wal")
        self._connection = sqlite3.connect(site.database, isolation_level=None)
        (self._first,) = self._connection.execute("SELECT min(pos) FROM tidings_log").fetchone() or (0,)

    def settled(self) -> int:
        """How many of the backlog are settled; it lies in the log without gaps."""
        with contextlib.suppress(OSError):
            self.wal = max(self.wal, self._path.stat().st_size / 1e6)
        (pos,) = self._connection.execute(POSITION, (self._handler,)).fetchone()
        return min(max((pos or 0) - (self._first or 1) + 1, 0), self._count)

    def close(self) -> None:
        self._connection.close()


async def fill(site: Site, count: int) -> tuple[float, float]:
    """Publish so many; events a second, and the WAL in MB at most."""
    began, wal = time.monotonic(), 0.0
    async with site.publisher() as publisher:
        for first in range(0, count, TOGETHER):
            numbers = range(first, min(first + TOGETHER, count))
            await publisher.publish(*(Counted(key=f"k{number % KEYS}", number=number) for number in numbers))
            wal = max(wal, os.stat(f"{site.database}-wal").st_size / 1e6)
    return count / (time.monotonic() - began), wal


@contextlib.asynccontextmanager
async def worker(site: Site, handler: str) -> AsyncIterator[tuple[Worker, float, int]]:
    """A worker that is ready, how many seconds that took, and the port of its metrics."""
    port = free_port()
    began = time.monotonic()
    with mock.patch.dict(os.environ, {WHICH: handler}):
        started = await site.start(f"--metrics-port={port}")
    yield started, time.monotonic() - began, port
    assert await started.stop() == 0


async def drain(site: Site, handler: str, count: int) -> Drain:
    """Let a worker handle the backlog, and look on."""
    progress = Progress(site, handler, count)
    looks: list[tuple[float, float]] = []
    looked = 0.0
    began = moved = time.monotonic()
    seen = [Seen(began, 0.0, 0)]
    async with worker(site, handler) as (started, ready, port):
        while seen[-1].settled < count:
            settled, now = progress.settled(), time.monotonic()
            moved = now if settled > seen[-1].settled else moved
            seen.append(Seen(now, cpu(started), settled))
            assert now - began < PATIENCE, f"{settled} of {count} settled in {PATIENCE:g} s"
            assert now - moved < STALL, f"stuck at {settled} of {count}"
            if now - looked > SCRAPE:
                looks.append(await look(progress, handler, count, port))
                looked = now
            await asyncio.sleep(LOOK)
        looks.append(await look(progress, handler, count, port))
        peak = started.peak()
    progress.close()
    return Drain(ready, seen, count, peak, progress.wal, *map(max, zip(*looks, strict=True)))


def cpu(started: Worker) -> float:
    """Seconds of CPU that a worker has had, of all its threads, as far as the system counts them."""
    fields = Path(f"/proc/{started.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def look(progress: Progress, handler: str, count: int, port: int) -> tuple[float, float]:
    """By how much the lag that a worker tells is wrong, as a share of the backlog, and how many events it has in hand.

    It is right where it was true at some time of the scrape.
    """
    most = count - progress.settled()
    told, in_hand = await asyncio.to_thread(scrape, handler, port)
    least = count - progress.settled()
    return max(told - most, least - told, 0) / count, in_hand


def scrape(handler: str, port: int) -> tuple[float, float]:
    """The lag that the worker tells, and how many events it has in hand."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    lag = re.search(rf'^tidings_lag_events{{handler="meter.{handler}",topic="meter"}} (\S+)$', text, re.MULTILINE)
    in_hand = re.search(rf'^tidings_in_flight{{handler="meter.{handler}"}} (\S+)$', text, re.MULTILINE)
    assert lag, text
    assert in_hand, text
    return float(lag[1]), float(in_hand[1])


async def idle(folder: Path, handler: str) -> tuple[float, float]:
    """What a worker without any backlog takes: MB at most, and seconds until it is ready."""
    async with Site(made(folder), __name__) as site, worker(site, handler) as (started, ready, port):
        await asyncio.to_thread(scrape, handler, port)
        return started.peak(), ready


async def measured(folder: Path, count: int) -> dict[str, float]:
    """All figures; raises AssertionError where an event was lost or doubled."""
    figures: dict[str, float] = {}
    async with Site(made(folder / "full"), __name__) as site:
        figures["filled, events/s"], figures["WAL while filling, MB"] = await fill(site, count)
        site.rows("CREATE TABLE kept (number INTEGER NOT NULL, text TEXT NOT NULL)")
        for handler in ("hear", "book"):
            memory, ready = await idle(folder / f"idle-{handler}", handler)
            went = await drain(site, handler, count)
            figures |= {
                f"{handler}: events/s in the first tenth": went.rates[0],
                f"{handler}: in the last": went.rates[1],
                f"{handler}: last beside first": went.steady[0],
                f"{handler}: by CPU": went.steady[1],
                f"{handler}: above an idle worker, MB": went.peak - memory,
                f"{handler}: ready, s": went.ready,
                f"{handler}: without a backlog, s": ready,
                f"{handler}: WAL, MB": went.wal,
                f"{handler}: lag off by, %": 100 * went.lag_off,
                f"{handler}: in hand at most": went.in_hand,
            }
        numbers = [number for (number,) in site.rows("SELECT number FROM kept")]
    figures["lost"], figures["doubled"] = count - len(set(numbers)), doubled(numbers)
    return figures


def judge(figures: Figures, *, timed: bool = True) -> None:
    """What must hold. `timed`: also what only a long run can show."""
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    for handler in ("hear", "book"):
        assert float(figures[f"{handler}: above an idle worker, MB"]) <= MEMORY, figures
        assert float(figures[f"{handler}: lag off by, %"]) <= 100 * LAG, figures
        assert float(figures[f"{handler}: in hand at most"]) <= IN_HAND, figures
        if timed:
            later = float(figures[f"{handler}: ready, s"]) - float(figures[f"{handler}: without a backlog, s"])
            assert later <= LATER, figures
            steady = max(float(figures[f"{handler}: {by}"]) for by in ("last beside first", "by CPU"))
            assert steady >= STEADY, figures


async def run(folder: Path) -> Figures:
    figures = await measured(folder, COUNT)
    judge(figures)
    return {"events": COUNT, **figures}


def made(folder: Path) -> Path:
    """A folder that is new."""
    folder.mkdir()
    return folder


def free_port() -> int:
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        return int(ours.getsockname()[1])


ROW = Row(
    "17",
    "a backlog of 1,000,000 when the consumers start",
    "memory at most 60 MB above an idle worker, the last tenth at 0.9 of the speed of the first, a start as quick as "
    "without a backlog, lag right within 1 %, nothing lost or doubled",
    run,
    quick=False,
)
