"""The past orders as they would arrive today, without end: what `tidings flood examples.shop:apps` lets arrive."""

import itertools
from collections.abc import Iterator

import msgspec

from tidings import Event

from .history import read_orders
from .orders import today


def orders() -> Iterator[Event]:
    """All orders and cancellations, and again from the first under other numbers."""
    past = list(read_orders())
    for turn in itertools.count():
        for each in past:
            again = msgspec.structs.replace(each, order_id=f"{each.order_id}-{turn}") if turn else each
            yield today(again)[1]
