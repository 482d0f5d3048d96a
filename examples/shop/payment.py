"""Payment: charges cards and pays back what is cancelled.

The bank is outside of every transaction: after a crash it may be asked again. So each request bears the id of what it
is for, and a bank that gets the same id twice moves the money once. What is booked here is in the transaction.
"""

import time
import zlib
from decimal import Decimal

from msgspec import Struct

from tidings import App, Delivery, Event, Retry, Tx

app = App("payment")


class OrderPlaced(Event, name="order.placed"):
    """Heard from orders."""

    order_id: str
    customer: str
    total: Decimal


class CardGiven(Event, name="card.given"):
    """Heard from orders."""

    order_id: str
    customer: str
    total: Decimal


class OrderCancelled(Event, name="order.cancelled"):
    """Heard from orders."""

    order_id: str
    cancellation_id: str
    customer: str
    total: Decimal


class PaymentTaken(Event, name="payment.taken", key="order_id"):
    """The order is paid."""

    order_id: str
    customer: str
    total: Decimal


class CardRefused(Event, name="card.refused", key="order_id"):
    """The bank does not accept the card. Not an error: it is an answer."""

    order_id: str
    customer: str
    total: Decimal


class RefundPaid(Event, name="refund.paid", key="order_id"):
    """What was cancelled is paid back."""

    order_id: str
    cancellation_id: str
    customer: str
    total: Decimal


class Refused(Exception):
    """The bank does not accept the card."""


class Unreachable(Exception):
    """The bank does not answer."""


class Bank:
    """Stands in for a bank. Who draws which lot depends on the id alone, so that every run is the same.

    One request in 400 finds the line dead at the first attempt; one card in 500 is refused.
    """

    async def charge(self, id: str, amount: Decimal, *, attempt: int, other_card: bool) -> None:
        """Move the money, once for each id. Raises Refused or Unreachable."""
        lot = zlib.crc32(id.encode())
        if lot % 400 == 0 and attempt == 1:
            raise Unreachable(f"no answer for {id}")
        if lot % 500 == 1 and not other_card:
            raise Refused(f"{amount} for {id}")

    async def pay_back(self, id: str, amount: Decimal, *, attempt: int) -> None:
        """Move the money the other way, once for each id. Raises Unreachable."""
        if zlib.crc32(id.encode()) % 4 == 0 and attempt == 1:
            raise Unreachable(f"no answer for {id}, {amount} back")


class Booking(Struct, frozen=True):
    """Money that was moved for an order, or back for a cancellation; how often, which should be once."""

    amount: Decimal
    times: int
    at: float


app.provide(Bank())
bookings = app.table("bookings", Booking)


@app.on(OrderPlaced, CardGiven, OrderCancelled, retry={Unreachable: Retry(at_once=0, first=0.5)})
async def settle(
    event: OrderPlaced | CardGiven | OrderCancelled, bank: Bank, tx: Tx, delivery: Delivery
) -> PaymentTaken | CardRefused | RefundPaid:
    """Charge an order or pay back a cancellation: one handler, so that they stay in order."""
    id, customer, total = event.order_id, event.customer, event.total
    if isinstance(event, OrderCancelled):
        await bank.pay_back(event.cancellation_id, total, attempt=delivery.attempt)
        await book(tx, event.cancellation_id, -total)
        return RefundPaid(order_id=id, cancellation_id=event.cancellation_id, customer=customer, total=total)
    try:
        await bank.charge(id, total, attempt=delivery.attempt, other_card=isinstance(event, CardGiven))
    except Refused:
        return CardRefused(order_id=id, customer=customer, total=total)
    await book(tx, id, total)
    return PaymentTaken(order_id=id, customer=customer, total=total)


async def book(tx: Tx, id: str, amount: Decimal) -> None:
    """Write down that money was moved."""
    before = await tx.get(bookings, id)
    tx.put(bookings, id, Booking(amount, before.times + 1 if before else 1, time.time()))
