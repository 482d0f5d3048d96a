"""The event of every measure: an order of three lines, about 350 bytes as JSON, under one of 10,000 keys."""

from __future__ import annotations

import random
import time
import uuid

import msgspec

from tidings import Event

KEYS = 10_000


class Line(msgspec.Struct):
    """One line of an order."""

    sku: str
    quantity: int
    price: float


class OrderPlaced(Event, name="order.placed", version="1.0", key="customer"):
    """An order. `placed_at` is in seconds on the monotonic clock of the machine, which all its processes share."""

    order_id: str
    customer: str
    lines: list[Line]
    total: float
    placed_at: float
    note: str


class OrderCounted(Event, name="count.moved", version="1.0", key="customer"):
    """What the handler of `sql_and_publish` publishes."""

    customer: str
    total: float


def orders(count: int, *, seed: int = 1) -> list[OrderPlaced]:
    """`count` events; the first 10,000 are distinct, then they repeat."""
    source = random.Random(seed)
    pool = [_order(source) for _ in range(min(count, KEYS))]
    return [pool[index % len(pool)] for index in range(count)]


def placed_now(order: OrderPlaced) -> OrderPlaced:
    """The same order, placed at this moment."""
    return placed_at(order, time.perf_counter())


def placed_at(order: OrderPlaced, moment: float) -> OrderPlaced:
    """The same order, placed at that moment."""
    return type(order)(
        order_id=order.order_id, customer=order.customer, lines=order.lines, total=order.total,
        placed_at=moment, note=order.note,
    )  # fmt: skip


def _order(source: random.Random) -> OrderPlaced:
    lines = [
        Line(f"SKU-{source.randrange(10**6):06d}-BLACK", source.randrange(1, 9), round(source.random() * 100, 2))
        for _ in range(3)
    ]
    return OrderPlaced(
        order_id=str(uuid.UUID(int=source.getrandbits(128), version=4)),
        customer=f"customer-{source.randrange(KEYS):05d}",
        lines=lines,
        total=round(sum(line.quantity * line.price for line in lines), 2),
        placed_at=round(100_000 * source.random(), 6),
        note="Ring twice, then leave it at the door, please.",
    )
