"""What must not get past a type checker when messages are made and read."""

from decimal import Decimal
from typing import TypeVar

from tidings import Command, Event, Query

T = TypeVar("T")


class OrderCreated(Event, name="order.created", version="1.0", key="order_id"):
    order_id: str
    total: Decimal


class OrderStatus(Query[str], name="order.status", key="order_id"):
    order_id: str


class Misnamed(Event, name=7):  # B: is not assignable to type "str | None"
    order_id: str


def ask(question: Command[T] | Query[T]) -> T:
    raise LookupError(question)


created = OrderCreated(order_id="o-1", total=Decimal(5))

OrderCreated(order_id="o-1")  # E: Missing named argument "total"
OrderCreated(order_id=1, total=Decimal(5))  # E: incompatible type "int"; expected "str"
OrderCreated(order_id="o-1", total=5.0)  # E: incompatible type "float"; expected "Decimal"
OrderCreated(order_id="o-1", total=Decimal(5), coupon="x")  # E: Unexpected keyword argument "coupon"
OrderCreated("o-1", Decimal(5))  # E: Too many positional arguments

created.order_id = "o-2"  # E: read-only  # B: read-only
created.customer  # E: has no attribute "customer"
total: float = created.total  # E: Incompatible types in assignment

number: int = ask(OrderStatus(order_id="o-1"))  # E: Incompatible types in assignment
ask(created)  # E: incompatible type
