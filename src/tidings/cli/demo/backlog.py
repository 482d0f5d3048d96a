"""What is still to be done, by all that the ports of a broker and a store tell: the same on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tidings import dead
from tidings.broker import Start
from tidings.cli.demo.shop import Shop
from tidings.cli.letters import Letter
from tidings.connect import Connection
from tidings.linked import Linked
from tidings.message import contract_of

OUTBOX = "SELECT count(*) FROM tidings_outbox"
PAGE = 500
EMPTY = 1.0
"""Seconds for which nothing comes, when there is nothing more to be had."""


class Backlog:
    """What waits at a broker for the services of the shop."""

    def __init__(self, connection: Connection, shop: Shop) -> None:
        self.store = connection.store
        self._broker = connection.broker
        self._places = {
            (app.name, handler.name, contract_of(source).topic)
            for app in shop.apps for handler in app.handlers.values() for source in handler.sources
        }  # fmt: skip
        self._handlers = [(app.name, name) for app in shop.apps for name in app.handlers]

    async def waiting(self) -> dict[str, int]:
        """How many events wait for each service."""
        return await self._count(self._places)

    async def all(self, *, unknown: int = 0) -> dict[str, int]:
        """The same, with what is on its way from the store to the broker. Seldom is anything seen by neither.

        `unknown` is what counts for a service of which the broker does not know it.
        """
        waiting = await self._count(self._places, unknown)
        if isinstance(self._broker, Linked) and self._broker.outbox is not None:
            ((waiting["outbox"],),) = await self.store.rows(OUTBOX, ())
        return waiting

    async def dead(self) -> dict[str, int]:
        """How many open dead letters each service has."""
        return await self._count({(app, dead.operator_of(name), dead.topic_of(name)) for app, name in self._handlers})

    async def _count(self, places: Iterable[tuple[str, str, str]], unknown: int = 0) -> dict[str, int]:
        listed = sorted(places)
        lags = await asyncio.gather(*(self._broker.lag(topic, group) for _, group, topic in listed))
        waiting = {app: 0 for app, _ in self._handlers}
        for (app, _, _), lag in zip(listed, lags, strict=True):
            waiting[app] += unknown if lag.waiting is None else lag.waiting
        return waiting

    async def letters(self) -> list[Letter]:
        """The open dead letters. They are looked at and handed back."""
        return [letter for _, handler in self._handlers for letter in await self._letters_of(handler)]

    async def _letters_of(self, handler: str) -> list[Letter]:
        topic, group = dead.topic_of(handler), dead.operator_of(handler)
        waiting = (await self._broker.lag(topic, group)).waiting or 0
        found: list[Letter] = []
        if not waiting:
            return found
        letters = await self._broker.subscribe([topic], group, Start.EARLIEST)
        try:
            while len(found) < waiting and (lent := await letters.fetch(PAGE, EMPTY)):
                found += [Letter(handler, delivery.record) for delivery in lent]
        finally:
            await letters.close()
        return found
