"""A member of a group, or a view. All that is known is known in the event loop; the thread is in `pump.py`.

A guided tour. The pump brings messages, as long as there is room. `fetch` lends what came: it marks it as lent in the
metadata of the group's offset, and returns when Kafka has that; so an attempt is counted before the handler runs.
`done` strikes it out and returns when Kafka has that too: always the offset before which all is done. One commit is on
its way at a time, and carries whatever has changed since the one before. Partitions come and go in the pump's thread,
which waits until this has let go of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, Fenced
from tidings.kafka.keeper import Keeper
from tidings.kafka.ledger import SHIFT, WITHIN, Ledger
from tidings.kafka.notes import Note, Said
from tidings.kafka.pump import Place, Pump
from tidings.kafka.settings import broker_error
from tidings.kafka.wire import Received, Wire

log = logging.getLogger("tidings")

TOGETHER = 64
"""How many suspects of one death are lent with one fetch; those of several come one at a time."""
NOTHING: Mapping[int, Ledger] = {}


class House(Protocol):
    """What a line needs of its connection."""

    clock: Clock
    wire: Wire
    lease: float
    prefix: str

    def recall(self, group: str, consumer: Consumer, places: Sequence[Place]) -> list[Ledger]:
        """Where the group stands, in the pump's thread."""
        ...

    def forget(self, line: KafkaLine) -> None:
        """It is closed."""
        ...


class KafkaLine:
    """See Line. `group` None is a view, whose ledgers are given."""

    def __init__(self, house: House, consumer: Consumer, name: str, *, remembers: bool) -> None:
        self.lease = house.lease
        self._house = house
        self._clock = house.clock
        self._read = house.wire.record
        self._consumer = consumer
        self._name = name
        self.group = house.prefix + name
        self.remembers = remembers
        self._pump = Pump(consumer, self, house.clock, partial(house.recall, self.group))
        self._ledgers: dict[str, dict[int, Ledger]] = {}
        self._numbered: dict[int, Ledger] = {}
        self._keeper = Keeper(name, house.clock, self._numbered, self._pump.commit, self.lease)
        self._numbers = count(1)
        self._buffer: deque[Received] = deque()
        self._again: deque[Delivery] = deque()
        self._stir = asyncio.Event()
        self._settled = asyncio.Event()
        self._fenced: str | None = None
        self._trouble: BrokerError | None = None
        self._leavers: set[asyncio.Task[None]] = set()
        self._closed: asyncio.Task[None] | None = None
        self._ending = False

    def begin(self, topics: Sequence[str], ledgers: Sequence[Ledger] = ()) -> None:
        """Join the group, or read on from these ledgers."""
        if not self.remembers:
            self.own(ledgers)
            self._consumer.assign([TopicPartition(each.topic, each.partition, each.floor) for each in ledgers])
        self._pump.start(topics if self.remembers else ())

    # -- lending

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Line.fetch."""
        until = self._clock.monotonic() + wait
        while True:
            self._check()
            taken = self._take(limit)
            self._look()
            if taken and (lent := await self._mark(taken)):
                return lent
            left = until - self._clock.monotonic()
            if left <= 0:
                return []
            if not (self._buffer or self._again):
                self._stir.clear()
                await self._clock.wait(self._stir, left)

    def _check(self) -> None:
        self._check_fence()
        if self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            raise trouble

    def _check_fence(self) -> None:
        if self._closed is not None:
            raise Closed(f"the subscription of {self._name} is closed")
        if self._fenced is not None:
            reason, self._fenced = self._fenced, None
            self._renew()
            raise Fenced(reason)

    def _look(self) -> None:
        """Tell the pump how much room there is, and whether anything can be asked of it soon."""
        pump = self._pump
        full, pump.waiting = pump.waiting, len(self._buffer)
        pump.quiet = not (self._buffer or self._again) and not any(each.out for each in self._numbered.values())
        if full > len(self._buffer):
            pump.wake()

    def _take(self, limit: int) -> list[Delivery]:
        """The next in order that may be lent together."""
        taken: list[Delivery] = []
        while self._again and len(taken) < limit:
            if not fits(taken, self._again[0].attempt):
                return taken
            taken.append(self._lend(self._again.popleft()))
        full = len(self._buffer)
        self._take_new(taken, min(limit - len(taken), full))
        if full:
            self._pump.waiting_bytes = self._pump.waiting_bytes * len(self._buffer) // full
        return taken

    def _take_new(self, taken: list[Delivery], limit: int) -> None:
        """Of what came from the pump. This is where a record costs most: the usual one takes the shortest way."""
        read, buffer = self._read, self._buffer
        plain = not taken or taken[0].attempt == 1
        last, name, base, ledger = -1, "", 0, None
        for _ in range(limit):
            message = buffer.popleft()
            partition, topic, offset = message.partition(), message.topic(), message.offset()
            if partition != last or topic != name:
                last, name = partition, topic
                ledger = self._ledgers.get(topic, NOTHING).get(partition)
                base = 0 if ledger is None else ledger.number << SHIFT
            if ledger is None or ledger.leaving:
                continue
            if plain and offset >= ledger.next and not ledger.past:
                delivery = Delivery(read(message, ledger.name), 1, base | offset)
                ledger.out[offset] = delivery
                ledger.next = offset + 1
            elif attempt := ledger.attempt(offset):
                if not fits(taken, attempt):
                    buffer.appendleft(message)
                    return
                delivery = Delivery(read(message, ledger.name), attempt, base | offset)
                ledger.lend(delivery)
                plain = attempt == 1
            else:
                continue
            taken.append(delivery)

    def _lend(self, delivery: Delivery) -> Delivery:
        self._numbered[delivery.receipt >> SHIFT].lend(delivery)
        return delivery

    async def _mark(self, taken: list[Delivery]) -> list[Delivery]:
        """Kafka knows that these are out; without those whose partition went away meanwhile."""
        if not self.remembers:
            for each in taken:
                self._numbered[each.receipt >> SHIFT].out.clear()
            return taken
        touched = self._touch(taken)
        try:
            await self._keeper.keep(touched)
        except Fenced:  # of a part that is gone: that means something only for what was out before
            self._take_back(taken)
            return []
        except BaseException:
            self._take_back(taken)
            raise
        self._check_fence()
        numbered = self._numbered
        if not any(ledger.leaving or ledger.number not in numbered for ledger in touched):
            return taken
        stay = [each for each in taken if (ledger := numbered.get(each.receipt >> SHIFT)) and not ledger.leaving]
        kept = {each.receipt for each in stay}
        self._take_back([each for each in taken if each.receipt not in kept])
        self._settled.set()
        return stay

    def _touch(self, deliveries: Sequence[Delivery]) -> list[Ledger]:
        numbers = {each.receipt >> SHIFT for each in deliveries}
        touched = [self._numbered[number] for number in numbers if number in self._numbered]
        for ledger in touched:
            ledger.version += 1
        return touched

    def _take_back(self, deliveries: Sequence[Delivery]) -> None:
        """They were not lent after all: they are the next again, unless their partition is gone."""
        known = [each for each in deliveries if each.receipt >> SHIFT in self._numbered]
        for ledger in self._touch(known):
            ledger.take_back([each for each in known if each.receipt >> SHIFT == ledger.number])
        stay = [each for each in known if not self._numbered[each.receipt >> SHIFT].leaving]
        self._again.extendleft(reversed(stay))
        self._stir.set()

    def _renew(self) -> None:
        """After a fence: what was out means nothing, and what is still owned of it comes again."""
        waiting = {each.receipt: each for each in self._again}
        again: list[Delivery] = []
        ledgers = list(self._numbered.values())
        self._numbered.clear()
        for ledger in ledgers:
            was = ledger.number
            again += ledger.renewed(self._number(ledger))
            again += [
                Delivery(each.record, each.attempt, ledger.number << SHIFT | receipt & WITHIN)
                for receipt, each in waiting.items()
                if receipt >> SHIFT == was
            ]
        self._again = deque(again)

    # -- settling

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See Line.done."""
        if self._closed is not None:
            raise Closed(f"the subscription of {self._name} is closed")
        if not self.remembers:
            return
        lost = False
        touched: dict[Ledger, None] = {}
        number, ledger = -1, None
        for each in deliveries:
            receipt = each.receipt
            if receipt >> SHIFT != number:
                number = receipt >> SHIFT
                ledger = self._numbered.get(number)
                if ledger is None:
                    lost = True
                else:
                    touched[ledger] = None
            if ledger is not None:
                ledger.out.pop(receipt & WITHIN, None)
        for each_ledger in touched:
            each_ledger.version += 1
        self._settled.set()
        await self._keeper.keep(touched)
        self._look()
        if lost and self._fenced is not None:
            raise Fenced(self._fenced)

    # -- what the pump tells

    def arrived(self, messages: list[Received]) -> None:
        """See pump.Line."""
        wrong = [error for message in messages if (error := message.error()) is not None]
        self._buffer.extend([each for each in messages if each.error() is None] if wrong else messages)
        for error in wrong:
            self.complain(KafkaException(error))
        self._stir.set()

    def complain(self, error: KafkaException) -> None:
        """See pump.Line."""
        self._trouble = broker_error(error, f"{self._name} cannot be read")
        self._stir.set()

    def _number(self, ledger: Ledger) -> int:
        number = next(self._numbers)
        self._numbered[number] = ledger
        return number

    def own(self, ledgers: Iterable[Ledger]) -> None:
        """See pump.Line."""
        for ledger in ledgers:
            ledger.name = ledger.topic.removeprefix(self._house.prefix)
            ledger.number = self._number(ledger)
            self._ledgers.setdefault(ledger.topic, {})[ledger.partition] = ledger

    def places(self) -> list[Place]:
        """The partitions that are owned."""
        return [(each.topic, each.partition) for each in self._numbered.values()]

    def heed(self, said: Said) -> None:
        """Go where these notes say, unless that was done."""
        for ledger in list(self._numbered.values()):
            note = said.get((ledger.topic, ledger.partition), {}).get(self.group)
            if note is not None and note.name != ledger.place and not ledger.leaving:
                place = (ledger.topic, ledger.partition)
                self._pump.seek(place, note.offset, partial(self._moved, ledger, note))

    def _moved(self, ledger: Ledger, note: Note) -> None:
        if ledger.number not in self._numbered or ledger.place == note.name:
            return
        self._drop([ledger])
        del self._numbered[ledger.number]
        ledger.number = self._number(ledger)
        ledger.move(note.name, note.offset)
        self._stir.set()
        if self.remembers:
            self._fenced = f"{self._name} was moved on {ledger.name}"
            self._settled.set()
            self._keeper.go()

    def leave(self, places: Sequence[Place], patience: float, let_go: Callable[[], None]) -> None:
        """See pump.Line."""
        leaving = [
            ledger for topic, number in places if (ledger := self._ledgers.get(topic, {}).get(number)) is not None
        ]
        leaver = asyncio.create_task(self._leave(leaving, patience), name=f"{self._name} hands over")
        self._leavers.add(leaver)
        leaver.add_done_callback(self._leavers.discard)
        leaver.add_done_callback(lambda _: let_go())

    async def _leave(self, ledgers: Sequence[Ledger], patience: float) -> None:
        """Lend no more of these, wait for what is out, keep what is known, and let go."""
        for ledger in ledgers:
            ledger.leaving = True
        self._drop(ledgers)
        until = self._clock.monotonic() + patience
        while any(ledger.out for ledger in ledgers) and not self._ending:
            self._settled.clear()
            if (left := until - self._clock.monotonic()) <= 0:
                break
            await self._clock.wait(self._settled, left)
        if self._ending:
            for ledger in ledgers:
                ledger.take_back(list(ledger.out.values()))
        if patience:
            with contextlib.suppress(BrokerError):  # then the next owner reads what was kept before
                await self._keeper.keep(ledgers)
        await self._keeper.quiet()
        if any(ledger.out for ledger in ledgers):
            self._fenced = f"partitions of {self._name} went to another member before what was out was done"
            self._stir.set()
        for ledger in ledgers:
            del self._numbered[ledger.number]
            del self._ledgers[ledger.topic][ledger.partition]

    def _drop(self, ledgers: Sequence[Ledger]) -> None:
        """Forget what was pulled of these and not lent."""
        numbers = {ledger.number for ledger in ledgers}
        places = {(ledger.topic, ledger.partition) for ledger in ledgers}
        self._again = deque(each for each in self._again if each.receipt >> SHIFT not in numbers)
        self._buffer = deque(each for each in self._buffer if (each.topic(), each.partition()) not in places)
        self._pump.waiting_bytes = sum(map(len, self._buffer))
        self._look()

    # -- the end

    async def close(self) -> None:
        """See Line.close."""
        if self._closed is None:
            self._closed = asyncio.create_task(self._close(), name=f"{self._name} leaves")
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        self._ending = True
        self._stir.set()
        self._settled.set()
        if self._leavers:
            await asyncio.wait(self._leavers, timeout=self.lease)
        if self.remembers:
            await self._hand_back()
        self._pump.stop()
        if not await self._clock.wait(self._pump.ended, self.lease):
            log.warning("%s did not get out of Kafka's client in %.0f s", self._name, self.lease)
        self._house.forget(self)

    async def _hand_back(self) -> None:
        """What is out comes to the next member as it came to this one."""
        ledgers = list(self._numbered.values())
        for ledger in ledgers:
            ledger.take_back(list(ledger.out.values()))
        try:
            await self._keeper.keep([ledger for ledger in ledgers if ledger.kept < ledger.version])
        except BrokerError as error:
            log.warning("%s left without a word to Kafka, what was out counts as tried: %s", self._name, error)


def fits(taken: Sequence[Delivery], attempt: int) -> bool:
    """Whether one with this attempt may be lent beside these: suspects come apart, who killed twice comes alone."""
    if not taken:
        return True
    return taken[0].attempt == attempt and (attempt == 1 or (attempt == 2 and len(taken) < TOGETHER))
