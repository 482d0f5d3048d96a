"""The version that is being replaced."""

from __future__ import annotations

import sqlite3

from tests.matrix.site import effect
from tidings import App, Delivery, Event, Start

app = App("shop")


class Ordered(Event, name="order.placed", version="1.0", key="key"):
    key: str
    number: int


@app.on(Ordered, start=Start.EARLIEST)
def book(order: Ordered, db: sqlite3.Connection, delivery: Delivery) -> None:
    effect(db, "book by old", order.key, order.number, delivery.attempt)
