"""Inventory: takes from the shelves what is ordered, puts back what is returned, orders anew what runs low.

It works off many orders at a time, so that a title which many of them want is written once. Stock may fall below zero:
then it is owed, and goes out with the next delivery.
"""

import time
from collections import Counter
from collections.abc import Iterator

from tidings import App, Event, Sql

app = App("inventory")

FULL = 100
LOW = 20

TABLES = (
    "CREATE TABLE IF NOT EXISTS inventory_stock (sku TEXT PRIMARY KEY, pieces INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS inventory_moves
        (id TEXT NOT NULL, taken INTEGER NOT NULL, at DOUBLE PRECISION NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS inventory_deliveries (sku TEXT NOT NULL, quantity INTEGER NOT NULL)",
)
MOVED = "INSERT INTO inventory_moves VALUES (?, ?, ?)"
TAKE = """INSERT INTO inventory_stock VALUES (?, ?)
    ON CONFLICT (sku) DO UPDATE SET pieces = inventory_stock.pieces - ?"""
LEFT = "SELECT sku, pieces FROM inventory_stock WHERE sku IN (NULL{})"
DELIVERED = """INSERT INTO inventory_deliveries
    SELECT sku, ? - pieces FROM inventory_stock WHERE sku = ? AND pieces < ?"""
FILL = "UPDATE inventory_stock SET pieces = ? WHERE sku = ? AND pieces < ?"


class OrderPlaced(Event, name="order.placed"):
    """Heard from orders."""

    order_id: str
    items: dict[str, int]


class OrderCancelled(Event, name="order.cancelled"):
    """Heard from orders."""

    cancellation_id: str
    items: dict[str, int]


class StockLow(Event, name="stock.low", key="sku"):
    """Few of these are left on the shelf; below zero, so many are owed."""

    sku: str
    left: int


@app.on(OrderPlaced, OrderCancelled)
def move(events: list[OrderPlaced | OrderCancelled], db: Sql) -> Iterator[StockLow]:
    """Take what was ordered, put back what was returned; tell once of what has become low."""
    for table in TABLES:
        db.execute(table)
    taken: Counter[str] = Counter()
    moves = []
    for event in events:
        if isinstance(event, OrderPlaced):
            id, quantities = event.order_id, event.items
        else:
            id, quantities = event.cancellation_id, {sku: -quantity for sku, quantity in event.items.items()}
        taken.update(quantities)
        moves.append((id, sum(quantities.values()), time.time()))
    db.executemany(MOVED, moves)
    db.executemany(TAKE, [(sku, FULL - quantity, quantity) for sku, quantity in sorted(taken.items())])
    for sku, left in db.execute(LEFT.format(", ?" * len(taken)), list(taken)):
        if left < LOW <= left + taken[sku]:
            yield StockLow(sku=sku, left=left)


@app.on(StockLow)
def restock(low: StockLow, db: Sql) -> None:
    """Fill the shelf, whatever has been taken from it meanwhile."""
    values = (FULL, low.sku, LOW)
    db.execute(DELIVERED, values)
    db.execute(FILL, values)
