"""An audit of the shop: what each service has really done, counted in its own books.

No service itself: it reads the tables of all of them, which nothing but their handlers write. No table has a unique
constraint, and where a row has the id as its key it counts how often it was written: what is done twice shows.
"""

import asyncio
from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

from tidings import Table
from tidings.store import Store

from . import inventory, orders, sales, shipping
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

SCHEMA = ";".join((*inventory.TABLES, orders.TABLE, sales.TABLE, shipping.TABLE))

COUNTED = "SELECT id, count(*) FROM {table} GROUP BY id"
WHEN = "SELECT at FROM {table} WHERE id = ?"
CLOSED = "SELECT count(*) FROM orders_closed"
CLOSED_SINCE = "SELECT id, at FROM orders_closed WHERE at >= ?"
SALES = "SELECT coalesce(sum(cds), 0), coalesce(sum(cents), 0) FROM sales"
AT_ONCE = 500
"""Rows that are asked for at the same time."""


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
    """Looks into the books: tables of the services' own, and rows of their Tables, in the store of the shop."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def open(self) -> None:
        """Make the tables that no service has made yet, because it had nothing to do so far: there is always a book."""
        unit = self._store.unit()
        unit.add(lambda connection: self._store.script(connection, SCHEMA))
        await unit.commit()

    async def closed(self) -> int:
        """How many orders are done."""
        ((count,),) = await self._store.rows(CLOSED, ())
        return int(count)

    async def closed_since(self, moment: float) -> dict[str, float]:
        """Which orders were done since then, and when, in seconds since the epoch."""
        return dict(await self._store.rows(CLOSED_SINCE, (moment,)))

    async def sales(self) -> Sales:
        """All that was sold."""
        ((cds, cents),) = await self._store.rows(SALES, ())
        return Sales(int(cds), Decimal(int(cents)).scaleb(-2))

    async def times(self, service: str, ids: Iterable[str]) -> dict[str, int]:
        """How often the service has done what it does for each of these; without those that it has not."""
        if service in TABLES:
            counted = dict(await self._store.rows(COUNTED.format(table=TABLES[service]), ()))
            return {id: counted[id] for id in ids if id in counted}
        found: dict[str, int] = {}
        left = iter(ids)
        while several := list(islice(left, AT_ONCE)):
            tx = self._store.begin()
            rows = await asyncio.gather(*(tx.get(ROWS[service], id) for id in several))
            found |= {id: row.times for id, row in zip(several, rows, strict=True) if row is not None}
        return found

    async def trace(self, order_id: str) -> dict[str, float]:
        """When each service has done what it does for an order, in seconds since the epoch; as far as it has."""
        tx = self._store.begin()
        rows = [(service, await tx.get(table, order_id)) for service, table in ROWS.items()]
        seen = {service: row.at for service, row in rows if row is not None}
        for service, table in TABLES.items():
            for (at,) in await self._store.rows(WHEN.format(table=table), (order_id,)):
                seen[service] = at
        return seen
