"""Recommendations: what customers like you have bought.

Each title remembers the latest titles that its buyers also have; each customer, the latest that they bought. From
both comes what to show beside an order. All of it is bounded, however many orders there are.
"""

import time
from collections import Counter

from msgspec import Struct

from tidings import App, Event, Tx

app = App("recommendations")

OWNED = 12
COMPANY = 48
SHOWN = 3


class OrderPlaced(Event, name="order.placed"):
    """Heard from orders."""

    order_id: str
    customer: str
    items: dict[str, int]


class Advice(Struct, frozen=True):
    """The titles shown beside an order, best first; how often that was worked out, which should be once."""

    titles: list[str]
    times: int
    at: float


owned = app.table("owned", list[str])
company = app.table("company", list[str])
advice = app.table("advice", Advice)


@app.on(OrderPlaced)
async def recommend(orders: list[OrderPlaced], tx: Tx) -> None:
    """Learn from each order, and find what to show beside it. A title that many of them hold is written once."""
    learned: dict[str, list[str]] = {}
    for order in orders:
        titles = await shelf(order, tx)
        beside: Counter[str] = Counter()
        for title in titles[-len(order.items) :]:
            others: list[str] = learned[title] if title in learned else await tx.get(company, title, default=[])
            beside.update(others)
            learned[title] = [*others, *(other for other in titles if other != title)][-COMPANY:]
        for title in titles:
            beside.pop(title, None)
        best = sorted(beside, key=beside.__getitem__, reverse=True)[:SHOWN]
        before = await tx.get(advice, order.order_id)
        tx.put(advice, order.order_id, Advice(best, before.times + 1 if before else 1, time.time()))
    for title, others in learned.items():
        tx.put(company, title, others)


async def shelf(order: OrderPlaced, tx: Tx) -> list[str]:
    """The latest titles of the customer, those of this order last."""
    new = list(order.items)[-OWNED:]
    earlier = (await tx.get(owned, order.customer) or []) if order.customer else []
    titles = [*(title for title in earlier if title not in order.items), *new][-OWNED:]
    if order.customer:
        tx.put(owned, order.customer, titles)
    return titles
