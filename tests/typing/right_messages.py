"""Messages as their users declare them: fields keep their types, defaults and generics included."""

from decimal import Decimal
from typing import TypeVar, assert_type

import msgspec

from tidings import Command, Event, Query

T = TypeVar("T")


class OrderCreated(Event, name="order.created", version="1.0", key="order_id"):
    order_id: str
    customer: str
    items: dict[str, int]
    total: Decimal
    note: str | None = None
    tags: list[str] = msgspec.field(default_factory=list)


class AboutOrder(Event, abstract=True):
    order_id: str


class OrderShipped(AboutOrder, name="order.shipped", version="1.2.3", key="order_id", topic="shipping"):
    tracking: str


class Charge(Command[str], name="payment.charge", key="order_id"):
    order_id: str
    amount: Decimal


class Refund(Command[None], name="payment.refund", key="order_id"):
    order_id: str


class OrderStatus(Query[str], name="order.status", key="order_id"):
    order_id: str


def ask(question: Command[T] | Query[T]) -> T:
    raise LookupError(question)


created = OrderCreated(order_id="o-1", customer="c-1", items={"cd": 2}, total=Decimal("23.54"))
assert_type(created.order_id, str)
assert_type(created.items, dict[str, int])
assert_type(created.total, Decimal)
assert_type(created.note, str | None)
assert_type(created.tags, list[str])

shipped = OrderShipped(order_id="o-1", tracking="t-1")
assert_type(shipped.order_id, str)

assert_type(ask(Charge(order_id="o-1", amount=Decimal(5))), str)
assert_type(ask(OrderStatus(order_id="o-1")), str)
ask(Refund(order_id="o-1"))

facts: list[Event] = [created, shipped]
wishes: list[Command[object]] = [Charge(order_id="o-1", amount=Decimal(5))]
