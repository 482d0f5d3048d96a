"""Settling dead letters: what an operator is lent, nobody else replays or drops at the same time.

The letters come through the group in which they are open, so its fences hold: a letter that another operator was lent
meanwhile cannot be settled here. What is published and the acknowledgement are one commit where the broker is ATOMIC.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, Self

import msgspec

from tidings import dead
from tidings.broker import Delivery, Feature, Record, Subscription
from tidings.cli.letters import Selection
from tidings.clock import Clock
from tidings.connect import Connection
from tidings.errors import Fenced
from tidings.linked import Linked

PAGE = 200
WAIT = 0.3  # seconds for a fetch
GLANCE = 0.02  # the same, where what is held may be in the way
PATIENCE = 3.0  # seconds without anything new, in which the letters of an operator that died come free
SERVER_PATIENCE = 10.0  # the same, where a server takes its time until somebody has joined a group

Make = Callable[[Record], Record | None]


class Manners(NamedTuple):
    """Seconds without anything new, after which nothing more is to be had; and for which letters are let go.

    Beside a server, suspects wait until nothing is out: what was let go must not come back before they had their turn.
    """

    patience: float
    aside: float


def manners(connection: Connection) -> Manners:
    """Those that its broker asks for."""
    server = isinstance(connection.broker, Linked)
    return Manners(SERVER_PATIENCE, SERVER_PATIENCE) if server else Manners(PATIENCE, 0.0)


async def look(connection: Connection, handler: str, most: int) -> AsyncGenerator[Record]:
    """At most so many open letters of a handler, lent for a look and handed back when the look is over.

    Suspects come alone: where letters killed an operator, or were with one that died, these are let go for the others.
    """
    clock, (patience, aside) = Clock(), manners(connection)
    seen: set[str] = set()
    suspects: list[Delivery] = []
    letters = await connection.broker.subscribe([dead.topic_of(handler)], dead.operator_of(handler))
    try:
        until = clock.monotonic() + patience
        while len(seen) < most and clock.monotonic() < until:
            try:
                lent = await letters.fetch(PAGE, WAIT)
            except Fenced:
                suspects = []
                continue
            new = [delivery for delivery in lent if delivery.record.id not in seen]
            seen.update(delivery.record.id for delivery in new)
            suspects += [delivery for delivery in lent if delivery.attempt > 1]
            for delivery in new:
                yield delivery.record
            if new:
                until = clock.monotonic() + patience
            elif suspects:
                await letters.nack(suspects, aside)
                suspects = []
    finally:
        await letters.close()


class Operator:
    """An operator at the dead letters of one handler. Leaving hands back what is not settled."""

    def __init__(self, connection: Connection, handler: str, clock: Clock) -> None:
        self._broker, self._store = connection
        self._manners = manners(connection)
        self._topic = dead.topic_of(handler)
        self._group = dead.operator_of(handler)
        self._clock = clock
        self._aside: list[Delivery] = []
        self._returned: set[str] = set()

    async def __aenter__(self) -> Self:
        self._letters: Subscription = await self._broker.subscribe([self._topic], self._group)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._letters.close()

    async def settle(self, selection: Selection, make: Make, pace: Pace) -> AsyncGenerator[int]:
        """Settle what is wanted for good, in the order of keys; yields how many, commit by commit.

        In the commit of a letter is what `make` makes of it, or its copy where it has to move. It ends when all are
        done, or when those that are left are not to be had: another operator has them, or has settled them. Nothing is
        lent while the pace is kept, so that an operator who is killed leaves little in doubt.
        """
        left = selection.wanted | selection.moved
        while left:
            await pace.turn()
            lent = await self._lend(left, pace.step)
            if not lent:
                return
            made = [self._made(delivery.record, selection, make) for delivery in lent]
            if await self._commit(lent, [record for record in made if record is not None]):
                done = {delivery.record.id for delivery in lent}
                left -= done
                yield len(done & selection.wanted)

    def _made(self, letter: Record, selection: Selection, make: Make) -> Record | None:
        if letter.id in selection.wanted:
            return make(letter)
        return msgspec.structs.replace(letter, id=self._clock.id())

    async def _lend(self, wanted: set[str], most: int) -> list[Delivery]:
        until = self._clock.monotonic() + self._manners.patience
        while self._clock.monotonic() < until:
            try:
                lent = await self._letters.fetch(most, GLANCE if self._aside else WAIT)
            except Fenced:
                self._aside = []
                continue
            found = [delivery for delivery in lent if delivery.record.id in wanted]
            others = {delivery.record.id for delivery in lent} - wanted - self._returned
            self._aside += [delivery for delivery in lent if delivery.record.id in others]
            if found:
                return found
            if lent:
                until = self._clock.monotonic() + self._manners.patience
            elif self._aside:
                await self._hand_back()
            elif (await self._broker.lag(self._topic, self._group)).waiting == 0:
                break
        return []

    async def _hand_back(self) -> None:
        """Nothing comes while unwanted letters are held, where the group must be shared or they are suspects: let go.

        Each is let go once, so that it does not go round and round.
        """
        back, self._aside = self._aside, []
        self._returned.update(delivery.record.id for delivery in back)
        await self._letters.nack(back, self._manners.aside)

    async def _commit(self, letters: Sequence[Delivery], records: Sequence[Record]) -> bool:
        """False where another operator has the letters by now: then nothing is kept, where it is one commit."""
        try:
            if Feature.ATOMIC in self._broker.features:
                unit = self._store.unit()
                await self._broker.publish(records, tx=unit)
                await self._letters.ack(letters, tx=unit)
                await unit.commit()
            else:
                await self._broker.publish(records)
                await self._letters.ack(letters)
        except Fenced:
            self._aside = []
            return False
        return True


class Pace:
    """So many letters a second. A rate of 0 is no limit."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._next = clock.monotonic()

    @property
    def step(self) -> int:
        """How many at once, so that it is about ten times a second."""
        return max(min(int(self._rate / 10), PAGE), 1) if self._rate else PAGE

    async def turn(self) -> None:
        """Wait until the next step may be taken."""
        if self._rate:
            await self._clock.sleep(max(self._next - self._clock.monotonic(), 0.0))
            self._next = max(self._next, self._clock.monotonic()) + self.step / self._rate
