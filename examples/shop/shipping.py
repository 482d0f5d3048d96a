"""Shipping: sends what is paid."""

import time

from tidings import App, Event, Sql

app = App("shipping")

TABLE = "CREATE TABLE IF NOT EXISTS shipping_parcels (id TEXT NOT NULL, at DOUBLE PRECISION NOT NULL)"


class PaymentTaken(Event, name="payment.taken"):
    """Heard from payment."""

    order_id: str
    customer: str


class ParcelSent(Event, name="parcel.sent", key="order_id"):
    """The goods are on their way."""

    order_id: str
    customer: str


@app.on(PaymentTaken)
def send(paid: PaymentTaken, db: Sql) -> ParcelSent:
    """Pack it and hand it over."""
    db.execute(TABLE)
    db.execute("INSERT INTO shipping_parcels VALUES (?, ?)", (paid.order_id, time.time()))
    return ParcelSent(order_id=paid.order_id, customer=paid.customer)
