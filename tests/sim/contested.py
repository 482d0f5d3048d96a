"""A row that every process writes, and events of a key that fail while those before them are committed in vain."""

import asyncio

from tests.sim.shop import Placed
from tidings import App, Retry, Tx
from tidings.testing.sim import Simulation, invariant, simulate
from tidings.testing.sim.node import COMMIT
from tidings.testing.sim.trial import Invariant, Plan

app = App("contested")
by_order = app.table("by_order", list[int])
total = app.table("total", int)

ORDERS, EVENTS = 3, 24
heard: set[int] = set()


class NotNow(Exception):
    """Every second event of an order fails the first time that it is heard."""


@app.on(Placed, retry=Retry(first=0.02, at_once=0))
async def take(placed: Placed, tx: Tx) -> None:
    before = await tx.get(by_order, placed.order_id, [])
    count = await tx.get(total, "all", 0)
    first, even = placed.number not in heard, placed.number // ORDERS % 2
    heard.add(placed.number)
    if first and even:
        await asyncio.sleep(COMMIT / 2)  # while the one before it is being committed
        raise NotNow
    await asyncio.sleep(0.001 if first else 0.05)  # what is handled again takes longer than what failed has to wait
    tx.put(by_order, placed.order_id, [*before, placed.number])
    tx.put(total, "all", count + 1)


async def flow(simulation: Simulation) -> None:
    heard.clear()
    for first in range(0, EVENTS, 6):
        await simulation.publish(
            *(Placed(order_id=f"o{number % ORDERS}", number=number) for number in range(first, first + 6))
        )
        await simulation.sleep(simulation.random.choice((0.0, 0.01, 0.3)))


@invariant()
async def every_row_holds_what_was_handled(simulation: Simulation) -> None:
    if simulation.dead():
        return
    for order in range(ORDERS):
        wanted = [number for number in range(EVENTS) if number % ORDERS == order]
        assert await simulation.row(by_order, f"o{order}") == wanted, f"o{order}"
    assert await simulation.row(total, "all") == EVENTS, "total"


day = simulate(app, processes=3)(flow)
PLAN = Plan([app], flow, [Invariant(every_row_holds_what_was_handled, "settle")], processes=3)
