"""Settling dead letters: what an operator is lent, nobody else replays or drops at the same time.

The letters come through the group in which they are open, so its fences hold: a letter that another operator was lent
meanwhile cannot be settled here. What is published and the acknowledgement are one commit where the broker is ATOMIC.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Self

from tidings import dead
from tidings.broker import Delivery, Feature, Record, Subscription
from tidings.clock import Clock
from tidings.connect import Connection
from tidings.errors import Fenced

PAGE = 200
WAIT = 0.3  # seconds for a fetch
PATIENCE = 3.0  # seconds without anything new, in which the letters of an operator that died come free


class Operator:
    """An operator at the dead letters of one handler. Leaving hands back what is not settled."""

    def __init__(self, connection: Connection, handler: str, clock: Clock) -> None:
        self._broker, self._store = connection
        self._handler = handler
        self._clock = clock
        self._ready: list[Delivery] = []
        self._aside: list[Delivery] = []
        self._returned: set[str] = set()

    async def __aenter__(self) -> Self:
        topics = [dead.topic_of(self._handler)]
        self._letters: Subscription = await self._broker.subscribe(topics, dead.operator_of(self._handler))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._letters.close()

    async def lend(self, wanted: Collection[str], most: int) -> list[Delivery]:
        """At most so many of the wanted letters, in key order; none where others hold or have settled them."""
        until = self._clock.monotonic() + PATIENCE
        while not self._ready and self._clock.monotonic() < until:
            try:
                lent = await self._letters.fetch(PAGE, WAIT)
            except Fenced:
                self._forget()
                continue
            if lent:
                until = self._clock.monotonic() + PATIENCE
                self._ready += [delivery for delivery in lent if delivery.record.id in wanted]
                self._aside += [delivery for delivery in lent if delivery.record.id not in wanted]
            else:
                await self._hand_back()
        lent, self._ready = self._ready[:most], self._ready[most:]
        return lent

    async def lend_all(self, ids: Sequence[str]) -> list[Delivery]:
        """All of these in the order given, or none."""
        found: dict[str, Delivery] = {}
        while missing := [id for id in ids if id not in found]:
            lent = await self.lend(missing, len(missing))
            if not lent:
                return []
            found |= {delivery.record.id: delivery for delivery in lent}
        return [found[id] for id in ids]

    async def _hand_back(self) -> None:
        """Nothing comes while unwanted letters are held, where the group must be shared or they are suspects: let go.

        Each is let go once, so that it does not go round and round.
        """
        back = [delivery for delivery in self._aside if delivery.record.id not in self._returned]
        if back:
            self._aside = [delivery for delivery in self._aside if delivery.record.id in self._returned]
            self._returned |= {delivery.record.id for delivery in back}
            await self._letters.nack(back)

    async def settle(self, letters: Sequence[Delivery], records: Sequence[Record]) -> bool:
        """Publish these and settle the letters. False where another operator has them: then nothing is kept."""
        if Feature.ATOMIC not in self._broker.features:
            await self._broker.publish(records)
            await self._letters.ack(letters)
            return True
        unit = self._store.unit()
        await self._broker.publish(records, tx=unit)
        await self._letters.ack(letters, tx=unit)
        try:
            await unit.commit()
        except Fenced:
            self._forget()
            return False
        return True

    def _forget(self) -> None:
        """Another member took over: nothing that was lent counts."""
        self._ready, self._aside = [], []


class Pace:
    """So many a second. A rate of 0 is no limit."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._next = clock.monotonic()

    @property
    def step(self) -> int:
        """How many at once, so that it is about ten times a second."""
        return max(min(int(self._rate / 10), PAGE), 1) if self._rate else PAGE

    async def turn(self, count: int) -> None:
        """Wait until the next `count` may go."""
        if self._rate:
            await self._clock.sleep(max(self._next - self._clock.monotonic(), 0.0))
            self._next = max(self._next, self._clock.monotonic()) + count / self._rate
