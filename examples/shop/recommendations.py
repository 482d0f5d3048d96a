"""Recommendations: what customers like you have bought.

Each title remembers the latest titles that its buyers also have; each customer, the latest that they bought. From
both comes what to show beside an order. All of it is bounded, however many orders there are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from tidings import App, Event, Table, Tx

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
    """Learn from each order, and find what to show beside it. A row that many of them need is read and written once."""
    shelves = await rows(tx, owned, (order.customer for order in orders if order.customer))
    before = await rows(tx, advice, (order.order_id for order in orders))
    bought = [(order, shelve(order, shelves)) for order in orders]
    learned = await rows(tx, company, (title for order, titles in bought for title in titles[-len(order.items) :]))
    for order, titles in bought:
        beside: Counter[str] = Counter()
        for title in titles[-len(order.items) :]:
            others = learned.get(title, [])
            beside.update(others)
            learned[title] = [*others, *(other for other in titles if other != title)][-COMPANY:]
        for title in titles:
            beside.pop(title, None)
        best = sorted(beside, key=beside.__getitem__, reverse=True)[:SHOWN]
        last = before.get(order.order_id)
        before[order.order_id] = Advice(best, last.times + 1 if last else 1, time.time())
    put(tx, owned, shelves)
    put(tx, company, learned)
    put(tx, advice, before)


def shelve(order: OrderPlaced, shelves: dict[str, list[str]]) -> list[str]:
    """The latest titles of the customer, those of this order last."""
    new = list(order.items)[-OWNED:]
    titles = [*(title for title in shelves.get(order.customer, []) if title not in order.items), *new][-OWNED:]
    if order.customer:
        shelves[order.customer] = titles
    return titles


async def rows(tx: Tx, table: Table[Any], keys: Iterable[str]) -> dict[str, Any]:
    """The rows that are there, asked for all at once: where the store is a server, each question is a journey."""
    wanted = list(dict.fromkeys(keys))
    found = await asyncio.gather(*(tx.get(table, key) for key in wanted))
    return {key: row for key, row in zip(wanted, found, strict=True) if row is not None}


def put(tx: Tx, table: Table[Any], changed: dict[str, Any]) -> None:
    """Write these rows."""
    for key, row in changed.items():
        tx.put(table, key, row)
