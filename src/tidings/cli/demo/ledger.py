"""The ledger: what went in, what came of it in each service, what was lost or done twice.

It is counted in the services' own books, not in what the broker or the workers believe to have done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from tidings.cli.demo.shop import Shop


class Sales(msgspec.Struct, frozen=True):
    """What the sales service has booked, dollars to the cent."""

    cds: int
    dollars: str


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The account of the whole file; `kills`, `seconds`, `orders_per_second` and `recovery` are of this run alone.

    `effects` says by service how often something was done for an order; `lost` and `duplicated` look at cancellations
    too. What is missing behind a dead letter of its order is not lost: it waits for somebody to mend it. `recovery` is
    how many seconds after a kill all orders were done that were placed before it, at most; None without a kill.
    """

    orders: int
    effects: dict[str, int]
    lost: int
    duplicated: int
    dead: int
    kills: int
    seconds: float
    orders_per_second: float
    recovery: float | None
    sales: Sales

    @property
    def sound(self) -> bool:
        """Whether nothing was lost and nothing done twice."""
        return not self.lost and not self.duplicated


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in the services' books."""

    orders: int
    effects: dict[str, int]
    lost: int
    duplicated: int
    sales: Sales


async def compare(shop: Shop, audit: Any, past: Iterable[Any], stopped: Collection[str | None]) -> Books:
    """Look for all that was published in the books of each service. `stopped` are orders that have a dead letter."""
    orders: set[str] = set()
    due: dict[str, dict[str, str]] = {}
    for each in past:
        id, services = shop.audit.due(each)
        if isinstance(each, shop.history.PastOrder):
            orders.add(id)
        for service in services:
            due.setdefault(service, {})[id] = each.order_id
    effects, lost, duplicated = dict.fromkeys(due, 0), 0, 0
    for service, ids in due.items():
        times = await audit.times(service, ids)
        effects[service] = sum(count for id, count in times.items() if id in orders)
        duplicated += sum(times.values()) - len(times)
        lost += sum(id not in times and order not in stopped for id, order in ids.items())
    cds, dollars = await audit.sales()
    sales = Sales(cds, str(dollars))
    return Books(orders=len(orders), effects=effects, lost=lost, duplicated=duplicated, sales=sales)
