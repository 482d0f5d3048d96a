"""To have a part: its exclusive queue, the word of who had it before, its book, and then what is in it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from tidings.amqp import book
from tidings.amqp.channel import Lost, Refused
from tidings.amqp.connection import Connection
from tidings.amqp.control import Control
from tidings.amqp.naming import Place
from tidings.amqp.part import Part
from tidings.clock import Clock
from tidings.errors import BrokerError

log = logging.getLogger("tidings")

WAIT, BREATH = 5.0, 0.02
"""Seconds until who had a part before has let go of it, and between two looks."""
GRACE = 5.0
"""Seconds after an outage in which whoever was connected before it is not taken for dead."""
NOT_FOUND = 404


class House(Protocol):
    """What a member needs of its link."""

    connection: Connection
    voice: Connection
    """Another one, which publishes."""
    had: set[str]
    """The exclusive queues that lines of this connection have: among them the broker makes no difference."""

    async def make(self, place: Place) -> None:
        """Declare what belongs to a group."""
        ...

    def forget(self, place: Place) -> None:
        """Some of it was deleted: it has to be declared again."""
        ...

    async def write(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Put these into queues, durably."""
        ...

    def mailbox(self, member: str) -> str:
        """The queue of a member."""
        ...


class Claimant:
    """Claims parts for a member. `come` is called when something has come of one, or it has ended."""

    def __init__(self, house: House, clock: Clock, member: str, *, come: Callable[[], None]) -> None:
        self._house = house
        self._clock = clock
        self._me = member
        self._come = come

    async def claim(self, control: Control, place: Place, number: int) -> Part | None:
        """Have a part; None where another member was quicker, or it is not to be had yet."""
        lock = place.lock(number)
        part = Part(control.wire, place, number, clock=self._clock, stir=self._come)
        self._house.had.add(lock)
        locked = False
        try:
            await part.open()
            await part.ask("queue_declare", queue=lock, exclusive=True)
            locked = True
            await self._begin(control, part)
        except BaseException as problem:
            await self._forgo(control, part, lock, mine=locked or part.usable)
            if isinstance(problem, Refused) and problem.code == NOT_FOUND:
                self._house.forget(place)
            if isinstance(problem, Refused | Lost) and self._house.connection.up:
                log.info("part %s of %s is not to be had just now: %s", number, place.name, problem)
                return None
            raise
        return part

    async def _begin(self, control: Control, part: Part) -> None:
        place, number = part.place, part.part
        await self._until_left(part, place.queue(number))
        tags, known = await self._read(part, place.book(number))
        died = known.owner not in ("", self._me) and not await self._lives(control, known.owner)
        if died and self._after_outage:
            raise Lost(f"{known.owner}, which had it before the outage, may come back")
        part.book = known.begun(self._me, died=died)
        await self._house.write([(place.book(number), book.encode(part.book))])
        if tags:
            part.acknowledge(tags[-1])
        await part.consume()

    async def _forgo(self, control: Control, part: Part, lock: str, *, mine: bool) -> None:
        """Leave it to others: its exclusive queue has to go also where its channel was closed by what came after."""
        with contextlib.suppress(BrokerError):
            if mine and part.book.owner:
                await self._house.write([(part.place.book(part.part), book.encode(part.left()))])
        with contextlib.suppress(BrokerError):
            await part.close()
        with contextlib.suppress(BrokerError):
            if mine:
                await control.ask("queue_delete", queue=lock)
        self._house.had.discard(lock)

    async def _until_left(self, part: Part, queue: str) -> None:
        """What another had is put back a moment after its exclusive queue is gone."""
        deadline = self._clock.monotonic() + WAIT
        while (await part.ask("queue_declare", queue=queue, passive=True)).method.consumer_count:
            if self._clock.monotonic() > deadline:
                log.warning("somebody else consumes %s: that must be left to members of its group", queue)
                raise Lost("somebody else consumes it")
            await self._clock.sleep(BREATH)

    async def _read(self, part: Part, queue: str) -> tuple[list[int], book.Book]:
        found: list[tuple[int, bytes]] = []
        while (message := await part.get(queue)) is not None:
            found.append(message)
        return [tag for tag, _ in found], book.latest([body for _, body in found])

    async def _lives(self, control: Control, member: str) -> bool:
        return (await control.inquire([self._house.mailbox(member)], "alive"))[0] is not None

    @property
    def _after_outage(self) -> bool:
        connection = self._house.connection
        return connection.times > 1 and self._clock.monotonic() - connection.since < GRACE
