"""The simulator: steps of its loop alone, and runs of a shop with the real engine, by the CPU time of one core.

CPU time, because runs wait for nothing: neighbours on the machine slow the clock, and much less this.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from tidings import App, Event, Tx
from tidings.testing.sim import Faults, Simulation
from tidings.testing.sim.loop import SimLoop
from tidings.testing.sim.tape import STEP, Tape
from tidings.testing.sim.trial import Plan, Stage

TASKS, STEPS = 20, 2000
RUNS = 20
STEPS_GOAL, RUNS_GOAL = 100_000, 200


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A figure: the best of its rounds, because whatever disturbs one makes it slower and never faster."""

    measure: str
    what: str
    figure: float
    unit: str
    goal: float


# -- the loop alone


async def callbacks(count: int) -> None:
    """A callback that calls itself soon."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def again(left: int) -> None:
        if left:
            loop.call_soon(again, left - 1)
        else:
            done.set_result(None)

    again(count)
    await done


async def sleeps(count: int) -> None:
    """A task that sleeps."""
    for _ in range(count):
        await asyncio.sleep(0.001)


async def queues(count: int) -> None:
    """Two tasks with a queue between them."""
    queue: asyncio.Queue[int] = asyncio.Queue(3)

    async def put() -> None:
        for number in range(count):
            await queue.put(number)

    async def get() -> None:
        for _ in range(count):
            await queue.get()

    await asyncio.gather(put(), get())


def steps(program: Callable[[int], Coroutine[Any, Any, None]], scale: float) -> float:
    """Steps a second of so many of these side by side, now and then in another order than the usual one."""
    loop = SimLoop(Tape(0, {STEP: 0.02}))
    loop.most_steps = 10 * TASKS * STEPS

    async def side_by_side() -> None:
        await asyncio.gather(*(program(max(int(STEPS * scale), 1)) for _ in range(TASKS)))

    before = time.process_time()
    loop.run_until_complete(side_by_side())
    return loop.steps / (time.process_time() - before)


# -- the shop


class Placed(Event, name="order.placed", key="order_id"):
    """An order."""

    order_id: str
    quantity: int


class Reserved(Event, name="stock.reserved", key="order_id"):
    """It is on the shelf."""

    order_id: str


class Paid(Event, name="payment.taken", key="order_id"):
    """It is paid for."""

    order_id: str


orders, stock, payment = App("orders"), App("stock"), App("payment")
shelf = stock.table("shelf", int)
TABLES = "CREATE TABLE closed (order_id TEXT PRIMARY KEY)"


@stock.on(Placed)
async def reserve(placed: Placed, tx: Tx) -> Reserved:
    """State and event in one commit: a row that all orders write."""
    tx.put(shelf, "cd", await tx.get(shelf, "cd", 100) - placed.quantity)
    return Reserved(order_id=placed.order_id)


@payment.on(Reserved)
async def take(reserved: Reserved) -> Paid:
    """What waits for somebody else's system."""
    await asyncio.sleep(0.05)
    return Paid(order_id=reserved.order_id)


@orders.on(Paid)
def close(paid: Paid, db: sqlite3.Connection) -> None:
    """SQL in the transaction of the acknowledgement."""
    db.execute("INSERT INTO closed VALUES (?)", (paid.order_id,))


def placing(count: int) -> Callable[[Simulation], Awaitable[None]]:
    """A scenario: so many orders, each of its own key, a little apart; each is paid and closed once."""

    async def scenario(simulation: Simulation) -> None:
        for number in range(count):
            await simulation.publish(Placed(order_id=f"o{number}", quantity=1))
            await simulation.sleep(simulation.random.choice((0.0, 0.01, 0.1)))
        await simulation.settle()
        if not simulation.dead():
            assert await simulation.row(shelf, "cd") == 100 - count
            assert len(simulation.sql("SELECT * FROM closed")) == count

    return scenario


def runs(count: int, processes: int, scale: float) -> float:
    """Runs a second of the shop, whose processes are killed."""
    apps = [orders, stock, payment]
    stage = Stage(Plan(apps, placing(count), (), Faults.only("order", "crash"), processes, TABLES))
    try:
        stage.play(0)
        number = max(int(RUNS * scale), 1)
        before = time.process_time()
        for seed in range(number):
            outcome = stage.play(seed)
            if outcome.error is not None:
                raise outcome.error
        return number / (time.process_time() - before)
    finally:
        stage.close()


def run(*, rounds: int, scale: float, progress: Callable[[str], None]) -> list[Row]:
    """All figures."""
    found = []
    for program in (callbacks, sleeps, queues):
        progress(f"loop, {program.__name__}")
        best = max(steps(program, scale) for _ in range(rounds))
        what = f"the loop alone: {TASKS} times: {(program.__doc__ or '').rstrip('.').lower()}"
        found.append(Row(measure=program.__name__, what=what, figure=best, unit="steps/s", goal=STEPS_GOAL))
    for count, processes in ((1, 1), (3, 2)):
        progress(f"shop, {count} orders, {processes} processes")
        best = max(runs(count, processes, scale) for _ in range(rounds))
        what = f"placed, reserved, paid, closed: {count} orders, {processes} processes that are killed"
        found.append(Row(measure=f"shop_{count}_{processes}", what=what, figure=best, unit="runs/s", goal=RUNS_GOAL))
    return found
