"""12: the clock jumps by a day, back and forth, while events are lent, retries wait and delayed ones are due.

The jump is made through the engine's clock port, in this process; a worker process with the machine's own clock shares
the group. A preloaded libfaketime would do the same to a whole process, but is no package that pip installs; leases and
time limits read the monotonic clock, which it would leave alone too.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.site import Site, doubled, inversions, note, until
from tidings import App, Delivery, Event, Retry, Start
from tidings.clock import Clock

DAY = 86_400.0
KEYS, EVENTS = 32, 1600
RETRY = 0.6
JITTER = 0.1


class Jumping(Clock):
    """The system's clock, whose time of day can be set."""

    shift = 0.0

    def now(self) -> float:
        """See Clock.now."""
        return time.time() + self.shift


class Counted(Event, name="count.made", key="key"):
    key: str
    number: int


class Tried(Event, name="try.made", key="key"):
    key: str
    number: int


class Later(Event, name="later.told", key="key"):
    key: str
    number: int


async def count(event: Counted, delivery: Delivery) -> None:
    note("count", event.key, event.number, delivery.attempt)
    await asyncio.sleep(0.02)


async def retried(event: Tried, delivery: Delivery) -> None:
    note("tried", event.key, event.number, delivery.attempt)
    if delivery.attempt == 1:
        raise ConnectionError("the first try fails")


async def later(event: Later) -> None:
    note("later", event.key, event.number)


def build(url: str | None = None, clock: Clock | None = None) -> App:
    made = App("shop", url, clock=clock)
    made.on(Counted, start=Start.EARLIEST)(count)
    made.on(Tried, retry=Retry(times=3, first=RETRY, jitter=JITTER, at_once=0), start=Start.EARLIEST)(retried)
    made.on(Later, start=Start.EARLIEST)(later)
    return made


app = build()


async def retries(site: Site, clock: Jumping) -> Figures:
    """Retries wait for as long as they were told to, however the clock is set meanwhile."""
    for round_, shift in enumerate((-DAY, DAY, 0.0)):
        first = 10 * round_
        await site.publish(Tried(key=f"r{first + n}", number=first + n) for n in range(8))
        await until(lambda expected=8 * (round_ + 1): len(attempts(site, 1)) == expected)
        clock.shift = shift
        await until(lambda expected=8 * (round_ + 1): len(attempts(site, 2)) == expected)
    waits = [attempts(site, 2)[number] - at for number, at in attempts(site, 1).items()]
    early = sum(wait < RETRY * (1 - JITTER) - 0.05 for wait in waits)
    late = sum(wait > 20.0 for wait in waits)
    assert early == late == 0, f"waited {min(waits)} to {max(waits)} s"
    return {"retries": len(waits), "early": early, "late": late, "waited, s": f"{min(waits):.2f} to {max(waits):.2f}"}


def attempts(site: Site, attempt: int) -> dict[int, float]:
    return {line.number: line.at for line in site.notes("tried") if line.attempt == attempt}


async def delayed(site: Site, here: App, clock: Jumping) -> Figures:
    """A delayed record has a date: it comes when the clock says so, and never twice."""
    for number in range(4):
        await here.publish(Later(key="l", number=number), delay=0.3)
    clock.shift = -DAY
    await asyncio.sleep(1.0)
    waited = not site.notes("later")
    clock.shift = 0.0
    await until(lambda: len(site.notes("later")) == 4)
    await here.publish(Later(key="l", number=4), delay=DAY / 2)
    clock.shift = DAY
    await until(lambda: len(site.notes("later")) == 5)
    clock.shift = 0.0
    assert waited
    return {"delayed, clock a day back": "wait for their date", "a day on": "come at once"}


async def leases(site: Site, clock: Jumping) -> Figures:
    """Nobody loses what it was lent: leases are counted on the monotonic clock."""
    worker = await site.start()
    shifts = iter((-DAY, DAY, 0.0, -DAY, DAY, 0.0))
    async with site.publisher() as publisher:
        for first in range(0, EVENTS, 50):
            await publisher.publish(
                *(Counted(key=f"k{n % KEYS}", number=n) for n in range(first, first + 50)),
            )
            if first % 250 == 200:
                clock.shift = next(shifts, 0.0)
            await asyncio.sleep(0.03)
        await site.drained()
    counted = site.notes("count")
    again = doubled(line.number for line in counted)
    fenced = len(worker.logged("lost its parts"))
    order = inversions([line.number for line in counted if line.key == f"k{key}"] for key in range(KEYS))
    assert again == fenced == order == 0
    assert len(counted) == EVENTS
    assert await worker.stop() == 0
    return {"events": EVENTS, "lent again": again, "leases lost": fenced, "inversions": order}


def ids(clock: Jumping) -> Figures:
    """Unique, also where the clock is at the same millisecond again, or stands still; they sort as the clock does."""
    stopped = time.time()
    clock.now = lambda: stopped + clock.shift  # type: ignore[method-assign]
    made: list[str] = []
    for shift in (0.0, -DAY, 0.0, DAY, 0.0):
        clock.shift = shift
        made += [clock.id() for _ in range(10_000)]
    assert doubled(made) == 0
    return {"ids": len(made), "ids twice": 0, "order of ids": "that of the clock: it goes back with it"}


async def run(folder: Path) -> Figures:
    clock = Jumping()
    async with Site(folder, __name__) as site:
        async with build(site.url, clock).running() as here:
            figures = {**await retries(site, clock), **await delayed(site, here, clock), **await leases(site, clock)}
        return {**figures, **ids(clock)}


ROW = Row(
    "12",
    "the clock jumps a day back and a day on while events are lent, retries wait and delayed ones are due",
    "leases, time limits and retries are counted on the monotonic clock: no lease is lost, no retry is early or late; "
    "delayed events have a date and follow the clock; ids stay unique and sort as the clock does, the log's order is "
    "by position",
    run,
)
