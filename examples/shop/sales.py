"""Sales: what was sold, in a table of its own, by SQL of its own."""

import time
from datetime import datetime
from decimal import Decimal

from tidings import App, Event, Sql

app = App("sales")

TABLE = """CREATE TABLE IF NOT EXISTS sales (id TEXT NOT NULL, month TEXT NOT NULL, cds INTEGER NOT NULL,
    cents INTEGER NOT NULL, at DOUBLE PRECISION NOT NULL)"""


class OrderPlaced(Event, name="order.placed"):
    """Heard from orders."""

    order_id: str
    placed: datetime
    items: dict[str, int]
    total: Decimal


class OrderCancelled(Event, name="order.cancelled"):
    """Heard from orders."""

    cancellation_id: str
    placed: datetime
    items: dict[str, int]
    total: Decimal


@app.on(OrderPlaced, OrderCancelled)
def book(events: list[OrderPlaced | OrderCancelled], db: Sql) -> None:
    """Add what was sold; what was cancelled is a sale of less than nothing."""
    db.execute(TABLE)
    db.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", [row(event) for event in events])


def row(event: OrderPlaced | OrderCancelled) -> tuple[str, str, int, int, float]:
    """As it is booked. Cents are whole numbers: sums stay exact."""
    id, sign = (event.order_id, 1) if isinstance(event, OrderPlaced) else (event.cancellation_id, -1)
    return id, f"{event.placed:%Y-%m}", sign * sum(event.items.values()), sign * int(event.total * 100), time.time()
