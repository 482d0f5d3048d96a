"""3: SIGTERM with work in flight. What was begun and fits into the grace time is settled; the rest comes again.

FastStream #2999 lost what was cancelled at the end of the grace time, because the cancellation counted as a failure
whose policy was to acknowledge; FastStream #1648, celery #3802 and dramatiq #148 ended before an acknowledgement was
sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.site import Site, doubled, note, until
from tidings import App, Delivery, Event, Start, Tx

app = App("shop")
tally = app.table("tally", list[int])

AT_ONCE = 50
GRACE = 20.0
RUNS = 5


class Ordered(Event, name="order.placed", key="key"):
    key: str
    number: int
    seconds: float
    endless: bool = False


@app.on(Ordered, concurrency=AT_ONCE, start=Start.EARLIEST)
async def handle(order: Ordered, tx: Tx, delivery: Delivery) -> None:
    note("begun", order.key, order.number, delivery.attempt)
    await asyncio.sleep(3600.0 if order.endless and not again() else order.seconds)
    tx.put(tally, order.key, [*await tx.get(tally, order.key, []), order.number])
    note("done", order.key, order.number, delivery.attempt)


def again() -> bool:
    """Whether endless ones are to end. Their attempt does not tell: what a member hands back is not counted."""
    return Path("again").exists()


def orders(count: int, longest: float, *, first: int = 0) -> list[Ordered]:
    chance = random.Random(first)
    return [
        Ordered(key=f"k{n}", number=n, seconds=chance.uniform(0.2, 1.0) * longest) for n in range(first, first + count)
    ]


def begun_again(site: Site) -> int:
    """How many were begun after they had been done."""
    done: set[int] = set()
    again = 0
    for line in site.notes():
        if line.what == "done":
            done.add(line.number)
        again += line.what == "begun" and line.number in done
    return again


async def in_time(site: Site) -> Figures:
    """50 in flight, more behind them, and time enough."""
    await site.publish(orders(2 * AT_ONCE, 1.0))
    worker = await site.start(f"--grace={GRACE}")
    await until(lambda: len(site.notes("begun")) >= AT_ONCE)
    told = time.monotonic()
    code = await worker.stop()
    took = time.monotonic() - told
    begun, done = ({line.number for line in site.notes(what)} for what in ("begun", "done"))
    assert code == 0, "all that was begun is settled"
    assert took < GRACE
    assert begun == done
    assert site.pending == 2 * AT_ONCE - len(done), "an acknowledgement was lost"
    return {"exit code": code, "ended after, s": took}


async def overdue(site: Site) -> Figures:
    """Handlers that take longer than the grace time are given up, not settled, and the code tells."""
    endless = [Ordered(key=f"e{n}", number=1000 + n, seconds=0.0, endless=True) for n in range(AT_ONCE)]
    await site.publish(endless)
    worker = await site.start("--grace=0.2")
    await until(lambda: len([line for line in site.notes("begun") if line.number >= 1000]) == AT_ONCE)
    code = await worker.stop()
    given_up = site.pending
    assert code == 3, "what had to be given up is told by the exit code"
    assert given_up == AT_ONCE
    (site.folder / "again").touch()
    return {"exit code at the end of the grace time": code, "given up and lent again": given_up}


async def at_random(site: Site, runs: int) -> int:
    """SIGTERM at any moment, also while it starts; the acknowledgements that were lost."""
    chance = random.Random(3)
    lost = 0
    await site.publish(orders(40 * runs, 0.05, first=10_000))
    for _ in range(runs):
        worker = await site.start(f"--grace={GRACE}")
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        assert await worker.stop() == 0
        done = len({line.number for line in site.notes("done")})
        lost += abs(len(site.notes("begun")) - len(site.notes("done")) - AT_ONCE)  # those of `overdue`
        settled = sum(map(len, site.tally("shop.tally").values()))
        lost += done - settled
    return lost


async def check(folder: Path, runs: int) -> Figures:
    async with Site(folder, __name__) as site:
        figures = {**await in_time(site), **await overdue(site)}
        worker = await site.start()
        await site.drained()
        assert await worker.stop() == 0
        lost = await at_random(site, runs)
        await site.start()
        await site.drained()
        numbers = [number for row in site.tally("shop.tally").values() for number in row]
        again = begun_again(site)
        assert lost == again == doubled(numbers) == 0
        assert len(numbers) == 3 * AT_ONCE + 40 * runs, "an event was lost"
    return {**figures, "moments": runs, "acknowledgements lost": lost, "finished and lent again": again, "lost": 0}


async def run(folder: Path) -> Figures:
    return await check(folder, RUNS)


ROW = Row(
    "3",
    f"SIGTERM with {AT_ONCE} handlers in flight; handlers longer than the grace time; SIGTERM at random moments",
    "what was begun is settled and the exit code is 0; what is longer than the grace time is cancelled without an "
    "acknowledgement, the exit code is 3, and it comes again; nothing that had finished does",
    run,
)
