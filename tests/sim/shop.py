"""A small shop of three services: the flow of an order, with a handler of each form, its effects in rows and in SQL."""

import asyncio
import sqlite3
from collections import Counter

from tidings import App, Event, Tx
from tidings.testing.sim import Simulation, invariant, simulate


class Placed(Event, name="order.placed", key="order_id"):
    order_id: str
    number: int


class Paid(Event, name="payment.taken", key="order_id"):
    order_id: str
    number: int


class Sent(Event, name="parcel.sent", key="order_id"):
    order_id: str
    number: int


orders, payment, shipping = App("orders"), App("payment"), App("shipping")
apps = [orders, payment, shipping]
taken = payment.table("taken", list[int])
takings = payment.table("takings", int)

TABLES = "CREATE TABLE closed (order_id TEXT, number INTEGER)"
ORDERS, EVENTS, LATE = 2, 6, "late"


@payment.on(Placed)
async def take(placed: Placed, tx: Tx) -> Paid:
    before = await tx.get(taken, placed.order_id, [])
    tx.put(taken, placed.order_id, [*before, placed.number])
    tx.put(takings, "all", await tx.get(takings, "all", 0) + 1)  # a row that all keys and processes write
    return Paid(order_id=placed.order_id, number=placed.number)


@shipping.on(Paid)
async def send(paid: Paid) -> Sent:
    await asyncio.sleep(0.15 * (3 - paid.number % 3))
    return Sent(order_id=paid.order_id, number=paid.number)


@orders.on(Sent)
def close(sent: Sent, db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO closed VALUES (?, ?)", (sent.order_id, sent.number))


async def flow(simulation: Simulation) -> None:
    """Some orders, each with several events, a little apart."""
    for number in range(EVENTS):
        await simulation.publish(Placed(order_id=f"o{number % ORDERS}", number=number))
        await simulation.sleep(simulation.random.choice((0.0, 0.01, 0.5)))
    await simulation.publish(Placed(order_id=LATE, number=0), delay=1.0)
    await simulation.sleep(simulation.random.choice((0.0, 1.0, 2.0)))


@invariant()
async def each_took_effect_once(simulation: Simulation) -> None:
    """Every service has done everything once, in the order of each key; what was given up is a dead letter."""
    if simulation.dead():
        return
    wanted = {f"o{order}": [n for n in range(EVENTS) if n % ORDERS == order] for order in range(ORDERS)} | {LATE: [0]}
    for order, numbers in wanted.items():
        assert await simulation.row(taken, order) == numbers, f"payment of {order}"
    assert await simulation.row(takings, "all") == EVENTS + 1, "takings"
    closed = simulation.sql("SELECT order_id, number FROM closed ORDER BY rowid")
    assert Counter(closed) == Counter((order, n) for order, numbers in wanted.items() for n in numbers), "closed"
    for order, numbers in wanted.items():
        assert [n for of, n in closed if of == order] == numbers, f"the order in which {order} was closed"


day = simulate(*apps, tables=TABLES)(flow)
