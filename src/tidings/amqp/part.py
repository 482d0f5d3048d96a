"""A part of a group's keys in the hands of its member: what has come, what is out, and what is acknowledged.

Everything is consumed with the same window, by every member and version: RabbitMQ puts what comes back behind what
came back before, so that the order holds only if all that came back is handed out again at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, NamedTuple

import msgspec

from tidings.amqp import content
from tidings.amqp.book import Book
from tidings.amqp.channel import DEADLINE, Channel, Lost
from tidings.amqp.naming import Place
from tidings.amqp.wire import Wire
from tidings.broker import Delivery, Record
from tidings.clock import Clock
from tidings.errors import BrokerError

WINDOW = 256
"""How many records are on their way to a member at most, a part. It may grow from version to version, never shrink."""
TOGETHER = 64
"""How many records that were out at one death are lent together."""
TAG = "tidings"
ACK_FRAME = Struct(">BHIIQBB")
QOS_FRAME = Struct(">BHIIIHBB")
ACK, QOS, END = 0x3C0050, 0x3C000A, 0xCE


class Arrived(NamedTuple):
    """A message as it came."""

    tag: int
    again: bool
    header: bytes
    body: bytes


class Part(Channel):
    """A channel with the consumer of one queue. `stir` is called when something has come, or it has ended."""

    def __init__(self, wire: Wire, place: Place, number: int, *, clock: Clock, stir: Callable[[], None]) -> None:
        super().__init__(wire)
        self.place = place
        self.part = number
        self.book = Book()
        self.ready: deque[Arrived] = deque()
        self.out: dict[int, tuple[Arrived, Delivery]] = {}
        self.leaving: float | None = None  # the latest time at which it is given away
        self.heir = ""
        self._clock = clock
        self._stir = stir
        self._unsettled: dict[int, None] = {}
        self._known: dict[int, int] = {}  # of what something is known, by tag: the deaths
        self._barriers: deque[asyncio.Future[None]] = deque()

    async def consume(self) -> None:
        """Begin to get what is in the queue."""
        self.raw.add_on_cancel_callback(lambda _: self.cancelled())
        await self.ask("basic_qos", prefetch_count=WINDOW)
        await self.ask(
            "basic_consume", queue=self.place.queue(self.part), on_message_callback=_nobody, consumer_tag=TAG
        )

    @property
    def unsettled(self) -> int:
        """How many have come and are not acknowledged."""
        return len(self._unsettled)

    def cancelled(self) -> None:
        """The queue was deleted, or has moved to another node.

        Where it is made again at once, the broker may tell nothing and take us for a consumer of the new one, of which
        nothing comes (seen with 3.10). So whoever makes it again says that to all who have parts.
        """
        self.why = self.why or Lost(f"the queue {self.place.queue(self.part)} was deleted, or has moved")
        self._stir()

    def ended(self, why: BrokerError) -> None:
        """See Channel."""
        for barrier in self._barriers:
            if not barrier.done():
                barrier.set_exception(why)
                barrier.exception()
        self._stir()

    def delivered(self, tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
        """See Tap."""
        self._unsettled[tag] = None
        if not self.ready:
            self._stir()
        self.ready.append(Arrived(tag, redelivered, header, body))

    # -- lending

    def take(self, limit: int, receipts: Callable[[], int]) -> list[Delivery]:
        """What may be lent now. Where the book is not open, it must be written before."""
        if self.leaving is not None or self.why is not None:
            return []
        if not self.book.open:
            return self._take_with_care(limit, receipts)
        ready, out = self.ready, self.out
        taken: list[Delivery] = []
        for _ in range(min(limit, len(ready))):
            arrived = ready.popleft()
            receipt = receipts()
            delivery = Delivery(self._record(arrived), 1, receipt)
            out[receipt] = (arrived, delivery)
            taken.append(delivery)
        return taken

    def _record(self, arrived: Arrived) -> Record:
        record = content.record(self.place.topic, arrived.header, arrived.body, "")
        return record if record.id else msgspec.structs.replace(record, id=self._clock.id())

    def _take_with_care(self, limit: int, receipts: Callable[[], int]) -> list[Delivery]:
        taken: list[Delivery] = []
        while self.ready and len(taken) < min(limit, TOGETHER) and not self._alone:
            arrived = self.ready[0]
            deaths = self._deaths(arrived)
            if deaths > 1 and self.out:
                break
            self.ready.popleft()
            if deaths:
                self._known[arrived.tag] = deaths
            delivery = Delivery(self._record(arrived), deaths + 1, receipts())
            self.out[delivery.receipt] = (arrived, delivery)
            taken.append(delivery)
        return taken

    @property
    def _alone(self) -> bool:
        """Whether something is out that was out at two deaths: it must be found out whether it is what kills."""
        return any(self._known.get(arrived.tag, 0) > 1 for arrived, _ in self.out.values())

    def _deaths(self, arrived: Arrived) -> int:
        """How many members died while it was out."""
        known = self.book.tries.get(mark(arrived))
        return known if known is not None else int(arrived.again and self.book.suspect)

    def lending(self) -> Book:
        """The book as it has to be before what is out may be used."""
        out = {mark(arrived): each.attempt - 1 for arrived, each in self.out.values()}
        waiting = {mark(arrived): self.book.tries.get(mark(arrived), 0) for arrived in self.ready if arrived.again}
        return self.book.lending(out, _counted(waiting | out))

    @property
    def recovered(self) -> bool:
        """Whether all of which something is known has come and is settled."""
        return not self.book.open and not self._known and bool(self.ready) and not self.ready[0].again

    def left(self) -> Book:
        """The book when it is given away: what is known of what was not settled."""
        if self.book.open:
            return self.book.left({})
        out = {mark(arrived): each.attempt - 1 for arrived, each in self.out.values()}
        return self.book.left(_counted(out | {mark(arrived): self._deaths(arrived) for arrived in self.ready}))

    def put_back(self) -> None:
        """What is out is out with nobody any more: it comes again, as it came before."""
        arrived = [each for each, _ in self.out.values()]
        self.out.clear()
        self._known.clear()
        self.ready = deque(sorted([*arrived, *self.ready]))

    def take_back(self, deliveries: Sequence[Delivery]) -> None:
        """These were not lent after all."""
        for delivery in reversed(deliveries):
            found = self.out.pop(delivery.receipt, None)
            if found is not None:
                self._known.pop(found[0].tag, None)
                self.ready.appendleft(found[0])

    # -- settling

    def settle(self, receipts: Sequence[int]) -> asyncio.Future[None] | None:
        """Acknowledge these; what tells that the broker has got that, or None where none of it is out."""
        tags = sorted(found[0].tag for receipt in receipts if (found := self.out.pop(receipt, None)) is not None)
        if not tags or not self.usable:
            return None
        for tag in tags:
            self._unsettled.pop(tag, None)
            self._known.pop(tag, None)
        first = next(iter(self._unsettled), None)
        whole = len(tags) if first is None else bisect_left(tags, first)
        frames = [self._ack(tags[whole - 1], multiple=True)] if whole else []
        frames += [self._ack(tag, multiple=False) for tag in tags[whole:]]
        frames.append(QOS_FRAME.pack(1, self.number, 11, QOS, 0, WINDOW, 0, END))
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append(barrier)
        self.wire.write(b"".join(frames))
        return barrier

    def _ack(self, tag: int, *, multiple: bool) -> bytes:
        return ACK_FRAME.pack(1, self.number, 13, ACK, tag, multiple, END)

    def passed(self) -> bool:
        """See Tap."""
        if not self._barriers:
            return False
        barrier = self._barriers.popleft()
        if not barrier.done():
            barrier.set_result(None)
        return True


def _nobody(*_: Any) -> None:
    """What pika would tell of a delivery; they are cut out of the stream before."""


def _counted(deaths: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in deaths.items() if count}


def mark(arrived: Arrived) -> str:
    """By what a record is known in the book: its id, or its content where it has none of its own."""
    id = content.record("", arrived.header, arrived.body, "").id
    return id or hashlib.sha256(arrived.body).hexdigest()[:24]


async def passed(barriers: Sequence[asyncio.Future[None]]) -> None:
    """Wait until the broker has got what was acknowledged. Raises Lost."""
    try:
        async with asyncio.timeout(DEADLINE):
            for barrier in barriers:
                await barrier
    except TimeoutError:
        raise Lost(f"RabbitMQ does not answer within {DEADLINE:g} seconds") from None
