"""The play: workers work, orders come in, workers get killed, until all is done; then the ledger is drawn up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import click

from tidings.cli.demo.backlog import Backlog
from tidings.cli.demo.crew import Crew, Hand
from tidings.cli.demo.feed import Feed
from tidings.cli.demo.ledger import Ledger, compare
from tidings.cli.demo.place import Place
from tidings.cli.demo.shop import CREW, Shop
from tidings.cli.letters import Letter
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect
from tidings.errors import BrokerError

LOOK = 0.1
"""Seconds between two looks at what is waiting."""
QUIET = 2
"""Looks without anything waiting, after which all is done."""
PATIENCE = 60.0
"""Seconds without progress before the play is broken off."""
NEWS = 8


class Wish(NamedTuple):
    """What was asked for. `speed` in orders a second; None for as fast as it goes."""

    kills: int
    speed: float | None
    pause: float


class Play:
    """One run of the shop."""

    def __init__(self, shop: Shop, place: Place, wish: Wish, *, past: Sequence[Any], backlog: Backlog) -> None:
        self.shop = shop
        self.past = past
        self.crew = Crew(CREW, self._tell, wish.pause)
        self.audit = shop.audit.Audit(backlog.store)
        self.news: deque[tuple[float, str]] = deque(maxlen=NEWS)
        self.began: float | None = None
        self.seconds = 0.0
        self.left: dict[str, int] = {}
        self.waiting = backlog.waiting
        self._place = place
        self._wish = wish
        self._backlog = backlog
        self._armed = 0
        self._killing: asyncio.Task[None] | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._recovery: float | None = None

    async def prepare(self) -> None:
        """Find out what is left to do. Raises click.ClickException where what an earlier run left would come between.

        A shop that is kept has the books of what it has done; publishing that once more would change nothing, but take
        time. To one whose books are new, ids are given that no earlier run can have used.
        """
        await self.audit.open()
        if not self._place.kept:
            await self._refuse_leftovers()
        ids = [each.order_id for each in self.past]
        closed = await self.audit.times("orders", ids)
        undone = [
            each
            for each in self.past
            if not isinstance(each, self.shop.history.PastOrder) or each.order_id not in closed
        ]
        self._closed_before = len(closed)
        prefix = "" if self._place.kept else f"{Clock().id()}-"
        self.feed = Feed(self.shop, undone, speed=self._wish.speed, prefix=prefix)

    async def _refuse_leftovers(self) -> None:
        waiting = sum((await self._backlog.all()).values())
        letters = sum((await self._backlog.dead()).values())
        if waiting or letters:
            raise click.ClickException(
                f"An earlier run has left {waiting:,} events and {letters:,} dead letters on this server, and its "
                "books are not here. Name its store to go on with it (--store sqlite:shop.db), or take another server."
            )

    async def run(self, stop: asyncio.Event) -> bool:
        """Play to the end, or until `stop` is set; returns whether it came to its end. Raises WorkerDied."""
        async with self.crew.working(self._place):
            self.began = time.monotonic()
            work = asyncio.create_task(self._work(), name="play")
            stopping = asyncio.create_task(stop.wait(), name="stop")
            try:
                await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
                self.seconds = self.elapsed
                if work.done():
                    work.result()
            finally:
                for task in filter(None, (work, stopping, self._killing, *self._watching)):
                    task.cancel()
            return not stop.is_set()

    @property
    def elapsed(self) -> float:
        """Seconds since the first order."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    async def closed(self) -> int:
        """How many orders this run has done."""
        return int(await self.audit.closed()) - self._closed_before

    async def _work(self) -> None:
        await self.feed.run(self._under_way, self._allowed)
        await self._done()
        if self._watching:
            await asyncio.wait(self._watching, timeout=1.0)

    async def _done(self) -> None:
        """Wait until nothing is left to do. While orders get done the broker is not asked: that costs it something."""
        quiet, closed, before, since, took = 0, -1, {"orders": -1}, time.monotonic(), 0.0
        while quiet < QUIET and time.monotonic() - since < PATIENCE:
            await asyncio.sleep(max(LOOK, took))
            if closed != (closed := await self.closed()):
                quiet, since = 0, time.monotonic()
                continue
            asked = time.monotonic()
            waiting = {service: count for service, count in (await self._backlog.all(unknown=1)).items() if count}
            took = time.monotonic() - asked
            quiet = 0 if waiting else quiet + 1
            if waiting != before:
                before, since = waiting, time.monotonic()
        self.left = before

    async def _under_way(self) -> int:
        dead = sum(figures.dead for figures in self.crew.figures.values())
        return self.feed.orders_sent - await self.closed() - dead

    # -- killing

    async def _allowed(self, sent: int) -> int:
        """How many may come before the next kill; when it is time, the next worker is made ready for it.

        Until it is killed orders come one by one: it needs work in hand, and where others have all the keys, a moment
        in which they have none.
        """
        if self._killing is not None and not self._killing.done():
            return 1
        if self._armed == self._wish.kills:
            return len(self.feed.past)
        at = (self._armed + 1) * len(self.feed.past) // (self._wish.kills + 1)
        if sent < at:
            return at - sent
        self._armed += 1
        hand = await self.crew.next_victim()
        self._killing = asyncio.create_task(self._kill(hand), name="kill")
        return 1

    async def _kill(self, hand: Hand) -> None:
        await self.crew.kill(hand)
        watching = asyncio.create_task(self._recover(hand, time.time()), name="recovery")
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def _recover(self, hand: Hand, killed: float) -> None:
        """See how long it takes until all is done that was placed before the kill."""
        orders = (each for each in self.feed.past[: self.feed.sent] if isinstance(each, self.shop.history.PastOrder))
        left = {order.order_id for order in orders}
        left -= (await self.audit.times("orders", left)).keys()
        while left:
            await asyncio.sleep(LOOK)
            left -= (await self.audit.closed_since(killed - PATIENCE)).keys()  # a commit may be later than its rows say
        seconds = time.time() - killed
        self._recovery = max(seconds, self._recovery or 0.0)
        others = [other.name for other in self.crew.hands if other is not hand and other.services == hand.services]
        what = f"{' and '.join(others)} took over" if others else "nobody else does its work"
        self._tell(f"{what}: all placed before is done, after {seconds:.1f} s")

    def _tell(self, what: str) -> None:
        self.news.append((self.elapsed, what))

    # -- the account

    async def ledger(self) -> tuple[Ledger, list[Letter]]:
        """What came of it, and the dead letters."""
        letters = await self._backlog.letters()
        books = await compare(self.shop, self.audit, self.past, {letter.record.key for letter in letters})
        closed = await self.closed()
        ledger = Ledger(
            orders=books.orders, effects=books.effects, lost=books.lost, duplicated=books.duplicated,
            dead=len(letters), kills=self.crew.kills, seconds=round(self.seconds, 3),
            orders_per_second=round(closed / self.seconds, 1) if self.seconds else 0.0,
            recovery=None if self._recovery is None else round(self._recovery, 3), sales=books.sales,
        )  # fmt: skip
        return ledger, letters


@contextlib.asynccontextmanager
async def staged(shop: Shop, past: Sequence[Any], wish: Wish, place: Place) -> AsyncGenerator[Play]:
    """A play at this place. Raises click.ClickException where it cannot be entered."""
    config = load(**place.settings)
    connection = connect(config, Clock())
    app = shop.orders.app
    try:
        await connection.open()
    except BrokerError as error:
        raise click.ClickException(str(error)) from error
    try:
        play = Play(shop, place, wish, past=past, backlog=Backlog(connection, shop))
        await play.prepare()
        await app.open(connection, config)
        yield play
    finally:
        await app.close()
        await connection.close()
