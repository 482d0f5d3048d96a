"""An audit of the shop: what each service has really done, counted in its own books.

No service itself: it reads the tables of all of them, which nothing but their handlers write. No table has a unique
constraint, and where a row has the id as its key it counts how often it was written: what is done twice shows.
"""

import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from tidings import Table
from tidings.store import Store

from .history import PastCancellation, PastOrder
from .mail import letters
from .payment import bookings
from .recommendations import advice

ON_ORDER = ("orders", "inventory", "payment", "shipping", "mail", "sales", "recommendations")
"""The services in which an order is found once when it is done."""

ON_CANCELLATION = ("inventory", "payment", "mail", "sales")
"""The same for a cancellation: goods back on the shelf, money back, a letter, a sale of less than nothing."""

AFTER = {"shipping": "payment", "mail": "shipping", "orders": "shipping"}
"""Whom a service waits for; all others begin when an order is placed."""

TABLES = {"orders": "orders_closed", "inventory": "inventory_moves", "shipping": "shipping_parcels", "sales": "sales"}
ROWS: dict[str, Table[Any]] = {"payment": bookings, "mail": letters, "recommendations": advice}

LATELY = "SELECT at FROM {table} WHERE rowid > (SELECT max(rowid) FROM {table}) - 5000 AND id = ?"
"""Among the last rows only, for the services keep no index of what they only add to."""


class Sales(NamedTuple):
    """What was sold, less what was given back."""

    cds: int
    dollars: Decimal


def due(past: PastOrder | PastCancellation) -> tuple[str, tuple[str, ...]]:
    """The id under which services book an order or a cancellation, and the services that have to."""
    if isinstance(past, PastOrder):
        return past.order_id, ON_ORDER
    return past.cancellation_id, ON_CANCELLATION


class Audit:
    """Looks into the books: tables of the services' own through `books`, rows of their Tables through `store`."""

    def __init__(self, books: sqlite3.Connection, store: Store) -> None:
        self._books = books
        self._store = store

    def closed(self) -> int:
        """How many orders are done."""
        rows = self._read("orders", "SELECT coalesce(max(rowid), 0) FROM {table}") or [(0,)]
        return int(rows[0][0])

    def sales(self) -> Sales:
        """All that was sold."""
        rows = self._read("sales", "SELECT coalesce(sum(cds), 0), coalesce(sum(cents), 0) FROM {table}") or [(0, 0)]
        return Sales(rows[0][0], Decimal(rows[0][1]).scaleb(-2))

    async def times(self, service: str, ids: Iterable[str]) -> dict[str, int]:
        """How often the service has done what it does for each of these; without those that it has not."""
        if service in TABLES:
            counted = dict(self._read(service, "SELECT id, count(*) FROM {table} GROUP BY id"))
            return {id: counted[id] for id in ids if id in counted}
        tx = self._store.begin()
        rows = [(id, await tx.get(ROWS[service], id)) for id in ids]
        return {id: row.times for id, row in rows if row is not None}

    async def trace(self, order_id: str) -> dict[str, float]:
        """When each service has done what it does for a recent order, in seconds since the epoch; as far as it has."""
        tx = self._store.begin()
        rows = [(service, await tx.get(table, order_id)) for service, table in ROWS.items()]
        seen = {service: row.at for service, row in rows if row is not None}
        for service in TABLES:
            for (at,) in self._read(service, LATELY, order_id):
                seen[service] = at
        return seen

    def _read(self, service: str, sql: str, *values: str) -> list[Any]:
        """Nothing where the service has not made its table yet, because it had nothing to do so far."""
        table = TABLES[service]
        if not self._books.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return []
        return self._books.execute(sql.format(table=table), values).fetchall()
