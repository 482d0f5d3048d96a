"""Publishes past orders, as fast as was asked for, each under an id that is the same in every run of a kept shop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tidings.cli.demo.shop import Shop

AT_ONCE = 250
STEP = 0.02
"""How many are published together; seconds between two steps."""
AHEAD = 2500
"""Orders: without a given speed, so many are under way and no more, like a shop that lets its customers wait."""


class Feed:
    """Past orders and cancellations on their way into the shop."""

    def __init__(self, shop: Shop, past: Sequence[Any], *, speed: float | None, prefix: str = "") -> None:
        self.past = past
        self.sent = 0
        self.orders_sent = 0
        self.latest: tuple[Any, float] | None = None
        self._shop = shop
        self._speed = speed
        self._prefix = prefix

    async def run(self, under_way: Callable[[], Awaitable[int]], allowed: Callable[[int], Awaitable[int]]) -> None:
        """Publish all. `under_way` says how many orders are not done, `allowed(sent)` how many more may come now."""
        began = time.monotonic()
        while self.sent < len(self.past):
            if self._speed is None:
                room = AHEAD - await under_way()
            else:
                room = int(self._speed * (time.monotonic() - began)) + 1 - self.sent
            room = min(room, AT_ONCE, await allowed(self.sent))
            if room > 0:
                await self._publish(self.past[self.sent : self.sent + room])
            if room < AT_ONCE:
                await asyncio.sleep(STEP)

    async def _publish(self, past: Sequence[Any]) -> None:
        app, today = self._shop.orders.app, self._shop.orders.today
        now = time.time()
        await asyncio.gather(*(app.publish(event, id=self._prefix + id) for id, event in map(today, past)))
        orders = [each for each in past if isinstance(each, self._shop.history.PastOrder)]
        self.sent += len(past)
        self.orders_sent += len(orders)
        if orders:
            self.latest = orders[-1], now
