"""The version that replaces it: one more field, one more type on the topic, one more handler."""

from __future__ import annotations

import sqlite3

from tests.matrix.site import effect
from tidings import App, Delivery, Event, Start

app = App("shop")


class Ordered(Event, name="order.placed", version="1.1", key="key"):
    key: str
    number: int
    channel: str = "unknown"


class Shipped(Event, name="order.shipped", key="key"):
    key: str
    number: int


@app.on(Ordered, start=Start.EARLIEST)
def book(order: Ordered, db: sqlite3.Connection, delivery: Delivery) -> None:
    effect(db, f"book by new, {order.channel}", order.key, order.number, delivery.attempt)


@app.on(Ordered, Shipped, start=Start.EARLIEST)
def follow(event: Ordered | Shipped, db: sqlite3.Connection, delivery: Delivery) -> None:
    what = "shipped" if isinstance(event, Shipped) else "placed"
    effect(db, f"follow {what}", event.key, event.number, delivery.attempt)
