"""The play: workers work, orders come in, workers get killed, until all is done; then the ledger is drawn up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tidings.cli.demo.crew import Crew, Hand
from tidings.cli.demo.feed import Feed
from tidings.cli.demo.ledger import Ledger, compare
from tidings.cli.demo.shop import CREW, Shop
from tidings.cli.letters import Letter, letters
from tidings.cli.target import connected
from tidings.config import load
from tidings.embedded.catalog import Catalog
from tidings.message import contract_of

LOOK = 0.1
"""Seconds between two looks at what is waiting."""
QUIET = 2
"""Looks without anything waiting, after which all is done."""
PATIENCE = 60.0
"""Seconds without progress before the play is broken off."""
KILL_WAIT = 10.0
"""Seconds in which a kill has to find work in hand."""
NEWS = 8


class Wish(NamedTuple):
    """What was asked for. `speed` in orders a second; None for as fast as it goes."""

    database: Path
    kills: int
    speed: float | None
    pause: float


class Play:
    """One run of the shop."""

    def __init__(
        self, shop: Shop, wish: Wish, *, past: Sequence[Any], feed: Feed, catalog: Catalog, audit: Any
    ) -> None:
        self.shop = shop
        self.past = past
        self.feed = feed
        self.audit = audit
        self.crew = Crew(CREW, self._tell, wish.pause)
        self.news: deque[tuple[float, str]] = deque(maxlen=NEWS)
        self.began: float | None = None
        self.seconds = 0.0
        self.left: dict[str, int] = {}
        self._wish = wish
        self._catalog = catalog
        self._closed_before = int(audit.closed())
        self._armed = 0
        self._killing: asyncio.Task[None] | None = None
        self._groups = [
            (app.name, handler.name, contract_of(source).topic)
            for app in shop.apps for handler in app.handlers.values() for source in handler.sources
        ]  # fmt: skip

    async def run(self, folder: Path, stop: asyncio.Event) -> bool:
        """Play to the end, or until `stop` is set; returns whether it came to its end. Raises WorkerDied."""
        async with self.crew.working(f"sqlite:{self._wish.database}", folder):
            self.began = time.monotonic()
            work = asyncio.create_task(self._work(), name="play")
            stopping = asyncio.create_task(stop.wait(), name="stop")
            try:
                await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
                self.seconds = self.elapsed
                if work.done():
                    work.result()
            finally:
                for task in filter(None, (work, stopping, self._killing)):
                    task.cancel()
            return not stop.is_set()

    @property
    def elapsed(self) -> float:
        """Seconds since the first order."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    @property
    def closed(self) -> int:
        """How many orders this run has done."""
        return int(self.audit.closed()) - self._closed_before

    def waiting(self) -> dict[str, int]:
        """How many events wait for each service."""
        waiting = {app.name: 0 for app in self.shop.apps}
        for app, group, topic in self._groups:
            waiting[app] += self._catalog.lag(topic, group, time.time()).waiting or 0
        return waiting

    async def _work(self) -> None:
        await self.feed.run(self._under_way, self._allowed)
        quiet, before, since = 0, {"orders": -1}, time.monotonic()
        while quiet < QUIET and time.monotonic() - since < PATIENCE:
            await asyncio.sleep(LOOK)
            waiting = {service: count for service, count in self.waiting().items() if count}
            quiet = 0 if waiting else quiet + 1
            if waiting != before:
                before, since = waiting, time.monotonic()
        self.left = before

    def _under_way(self) -> int:
        dead = sum(figures.dead for figures in self.crew.figures.values())
        return self.feed.orders_sent - self.closed - dead

    # -- killing

    async def _allowed(self, sent: int) -> int:
        """How many may come before the next kill; when it is time, the next worker is made ready for it."""
        if self._armed == self._wish.kills:
            return len(self.feed.past)
        at = (self._armed + 1) * len(self.feed.past) // (self._wish.kills + 1)
        if sent < at:
            return at - sent
        self._armed += 1
        if self._killing is not None:
            await asyncio.wait([self._killing], timeout=KILL_WAIT)
            self._killing.cancel()
        hand = await self.crew.next_victim()
        self._killing = asyncio.create_task(self._kill(hand), name="kill")
        return await self._allowed(sent)

    async def _kill(self, hand: Hand) -> None:
        """Kill it, and see how long it takes until what it held is free for others."""
        pid = await self.crew.kill(hand)
        since = time.monotonic()
        while True:
            if not any(member.pid == pid for member in self._catalog.members(since)):
                break
            await asyncio.sleep(LOOK)
        others = [other.name for other in self.crew.hands if other is not hand and other.services == hand.services]
        what = f"{' and '.join(others)} takes over" if others else "nobody else does its work: it waits"
        self._tell(f"{what}, after {time.monotonic() - since:.1f} s")

    def _tell(self, what: str) -> None:
        self.news.append((self.elapsed, what))

    # -- the account

    async def ledger(self) -> tuple[Ledger, list[Letter]]:
        """What came of it, and the dead letters."""
        open_letters = list(letters(self._catalog))
        stopped = {letter.record.key for letter in open_letters}
        books = await compare(self.shop, self.audit, self.past, stopped)
        ledger = Ledger(
            orders=books.orders, effects=books.effects, lost=books.lost, duplicated=books.duplicated,
            dead=len(open_letters), kills=self.crew.kills, seconds=round(self.seconds, 3),
            orders_per_second=round(self.closed / self.seconds, 1) if self.seconds else 0.0, sales=books.sales,
        )  # fmt: skip
        return ledger, open_letters


@contextlib.asynccontextmanager
async def staged(shop: Shop, past: Sequence[Any], wish: Wish) -> AsyncGenerator[Play]:
    """A play in a database that is there or made. Raises a StorageError that says what is wrong with it."""
    url = f"sqlite:{wish.database}"
    app = shop.orders.app
    async with connected(url) as connection:
        with Catalog(wish.database) as catalog:
            audit = shop.audit.Audit(catalog.connection, connection.store)
            feed = Feed(shop, await undone(shop, past, audit), wish.speed)
            await app.open(connection, load(broker=url))
            try:
                yield Play(shop, wish, past=past, feed=feed, catalog=catalog, audit=audit)
            finally:
                await app.close()


async def undone(shop: Shop, past: Sequence[Any], audit: Any) -> list[Any]:
    """What no earlier run has done. Publishing the rest once more would change nothing, but it would take time."""
    closed = await audit.times("orders", [each.order_id for each in past])
    return [each for each in past if not isinstance(each, shop.history.PastOrder) or each.order_id not in closed]
