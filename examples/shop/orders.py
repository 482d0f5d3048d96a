"""Orders: tells what customers order and give back, asks for another card, closes what was sent."""

import time
from datetime import datetime
from decimal import Decimal

from tidings import App, Event, Sql

from .history import PastCancellation, PastOrder

app = App("orders")

TABLE = "CREATE TABLE IF NOT EXISTS orders_closed (id TEXT NOT NULL, at DOUBLE PRECISION NOT NULL)"


class OrderPlaced(Event, name="order.placed", key="order_id"):
    """A customer has ordered these quantities of these goods. `customer` is empty where nobody knows the name."""

    order_id: str
    customer: str
    placed: datetime
    items: dict[str, int]
    total: Decimal


class OrderCancelled(Event, name="order.cancelled", key="order_id"):
    """A customer gives back an order or some of it; quantities and total are positive."""

    order_id: str
    cancellation_id: str
    customer: str
    placed: datetime
    items: dict[str, int]
    total: Decimal


class CardGiven(Event, name="card.given", key="order_id"):
    """The customer has given another card to pay the order with."""

    order_id: str
    customer: str
    total: Decimal


class CardRefused(Event, name="card.refused"):
    """Heard from payment."""

    order_id: str
    customer: str
    total: Decimal


class ParcelSent(Event, name="parcel.sent"):
    """Heard from shipping."""

    order_id: str


def today(past: PastOrder | PastCancellation) -> tuple[str, OrderPlaced | OrderCancelled]:
    """The event that replays it, and the id to publish it under, which is the same whenever that is done."""
    if isinstance(past, PastOrder):
        return past.order_id, OrderPlaced(
            order_id=past.order_id, customer=past.customer, placed=past.placed, items=past.items, total=past.total
        )
    return past.cancellation_id, OrderCancelled(
        order_id=past.order_id,
        cancellation_id=past.cancellation_id,
        customer=past.customer,
        placed=past.placed,
        items=past.items,
        total=past.total,
    )


@app.on(CardRefused)
async def offer_card(refused: CardRefused) -> CardGiven:
    """Ask for another card. There always is one: these orders are of the past, and all were paid in the end."""
    return CardGiven(order_id=refused.order_id, customer=refused.customer, total=refused.total)


@app.on(ParcelSent)
def close(parcels: list[ParcelSent], db: Sql) -> None:
    """The order is done."""
    db.execute(TABLE)
    now = time.time()
    db.executemany("INSERT INTO orders_closed VALUES (?, ?)", [(parcel.order_id, now) for parcel in parcels])
