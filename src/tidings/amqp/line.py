"""A member of a group: it has some parts of each topic, lends what is in them and acknowledges what is done.

A part is had by an exclusive queue, which the broker gives to one connection at a time and takes away when that dies;
only who has it consumes the part. (RabbitMQ's single active consumer would hand over by itself, but out of order: it
starts the next consumer before it puts back what was out.) Every second a member asks for the parts that it has not:
what nobody has it takes, and from a member with at least two more than it has it asks for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Sequence
from functools import partial

import msgspec

from tidings.amqp import book
from tidings.amqp.channel import Channel, Refused
from tidings.amqp.claim import Claimant, House
from tidings.amqp.control import ANSWER, Control, Word
from tidings.amqp.naming import Place
from tidings.amqp.part import Part, passed
from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import BrokerError, Fenced
from tidings.fetching import first_found
from tidings.steward import Steward

log = logging.getLogger("tidings")

LOST = "parts of the keys went to another member of the group, or the connection was lost: what was out comes again"
TICK, BREATH = 1.0, 0.02
"""Seconds between looks for parts, and at least between two."""
FOR_HEIRS = 3.0
"""Seconds in which what was given away is left to who asked for it."""
TIMED_OUT = 406

Key = tuple[Place, int]


class GroupLine:
    """See Line. What is handed over at an orderly close, or when a connection was lost, is no attempt."""

    def __init__(self, house: House, clock: Clock, *, lease: float, places: Sequence[Place]) -> None:
        self._house = house
        self._clock = clock
        self._lease = lease
        self._places = places
        self._me = clock.id()
        self._claimant = Claimant(house, clock, self._me, come=self._came)
        self._parts: dict[Key, Part] = {}
        self._receipts = itertools.count(1).__next__
        self._holder: dict[int, Part] = {}
        self._control: Control | None = None
        self._news = asyncio.Event()
        self._turn = 0
        self._neighbours: set[str] = set()  # who is told when parts are free
        self._useless: list[Part] = []  # whose exclusive queue is still ours, where the connection is
        self._given: dict[Key, float] = {}  # until when what was given away is left to others
        self._fenced = False
        self._steward = Steward(
            "a member of a group on RabbitMQ", clock, tend=self._tend, every=TICK, again=TICK / 2, breath=BREATH
        )

    async def open(self) -> None:
        """Take a share of the parts."""
        self._house.connection.users.add(self)
        try:
            await self._tend()
        except BaseException:
            await self.close()
            raise
        self._steward.start()

    def _came(self) -> None:
        self._news.set()

    # -- lending and settling

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Line."""
        found = await first_found(partial(self._next, limit), self._news, clock=self._clock, seconds=wait)
        if not found and self._steward.trouble is not None and not self._parts:
            raise self._steward.trouble
        return found

    async def _next(self, limit: int) -> Sequence[Delivery]:
        self._steward.check()
        self._drop_dead()
        if self._fenced:
            self._fenced = False
            raise Fenced(LOST)
        for part in self._in_turn():
            if taken := await self._lend(part, limit):
                return taken
        return []

    def _in_turn(self) -> list[Part]:
        ready = [part for part in self._parts.values() if part.ready and part.leaving is None]
        if len(ready) > 1:
            self._turn = (self._turn + 1) % len(ready)
            return ready[self._turn :] + ready[: self._turn]
        return ready

    async def _lend(self, part: Part, limit: int) -> Sequence[Delivery]:
        if part.recovered:
            await self._write([(part, part.book.recovered())])
        taken = part.take(limit, self._receipts)
        if taken and not part.book.open:
            try:
                await self._write([(part, part.lending())])
            except BaseException:
                part.take_back(taken)
                raise
            taken = [each for each in taken if each.receipt in part.out]
        self._holder.update(dict.fromkeys([each.receipt for each in taken], part))
        return taken

    async def _write(self, books: Sequence[tuple[Part, book.Book]]) -> None:
        """Each has the next number, whether or not it is kept: the highest that is found counts."""
        for part, text in books:
            part.book = msgspec.structs.replace(part.book, number=text.number)
        await self._house.write([(part.place.book(part.part), book.encode(text)) for part, text in books])
        for part, text in books:
            part.book = text

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See Line."""
        self._steward.check_open()
        settled: dict[Part, list[int]] = {}
        for delivery in deliveries:
            part = self._holder.pop(delivery.receipt, None)
            if part is not None:
                settled.setdefault(part, []).append(delivery.receipt)
        barriers = [part.settle(receipts) for part, receipts in settled.items()]
        await passed([barrier for barrier in barriers if barrier is not None])
        if any(part.why is not None for part in settled):
            self._drop_dead()
            raise Fenced(LOST)
        if any(part.leaving is not None and not part.out for part in settled):
            self._steward.stir()
        if any(not part.book.open for part in settled):
            self._news.set()  # something may wait for it

    def _fence(self) -> None:
        """What was out comes again."""
        self._fenced = True
        self._holder.clear()
        for part in self._parts.values():
            part.put_back()
        self._news.set()

    def _drop_dead(self) -> None:
        """Parts whose channel has ended are not had any more."""
        dead = [(key, part) for key, part in self._parts.items() if part.why is not None]
        for (place, number), part in dead:
            del self._parts[place, number]
            self._house.had.discard(place.lock(number))
            part.abandon()
            self._useless.append(part)
            if isinstance(part.why, Refused) and part.why.code == TIMED_OUT:
                log.warning("RabbitMQ took back what was out too long (consumer_timeout, 30 minutes): %s", part.why)
        if dead:
            self._steward.stir()
        if any(part.out for _, part in dead):
            self._fence()

    def changed(self) -> None:
        """The wire was lost, or there is another one."""
        self._news.set()
        self._steward.stir()

    # -- having parts

    async def _tend(self) -> None:
        self._drop_dead()
        try:
            control = await self._controlled()
            for place in self._places:
                await self._house.make(place)
            await self._clear_away(control)
            await self._let_go(control)
            await self._take_parts(control)
        finally:
            self._news.set()

    async def _take_parts(self, control: Control) -> None:
        """What nobody has, and a word to who has more."""
        keys = [(place, number) for place in self._places for number in range(place.parts)]
        others = [key for key in keys if key not in self._parts]
        answers = await control.inquire([place.lock(number) for place, number in others], "who")
        found = dict(zip(others, answers, strict=True))
        free = [key for key, answer in found.items() if answer is None and self._may_have(key)]
        for problem in await asyncio.gather(*(self._have(control, *key) for key in free), return_exceptions=True):
            if isinstance(problem, BaseException):
                raise problem
        for place in self._places:
            self._ask_for_share(control, place, [each for (at, _), each in found.items() if at == place and each])

    async def _have(self, control: Control, place: Place, number: int) -> None:
        part = await self._claimant.claim(control, place, number)
        if part is not None:
            self._parts[place, number] = part
            await control.listen(place.lock(number))

    def _may_have(self, key: Key) -> bool:
        here = key[0].lock(key[1]) in self._house.had
        return not here and self._given.get(key, 0.0) <= self._clock.monotonic()

    async def _controlled(self) -> Control:
        wire = self._house.connection.wire()
        if self._control is None or not self._control.usable or self._control.wire is not wire:
            if self._control is not None:
                self._control.abandon()
            mailbox = self._house.mailbox(self._me)
            self._control = await Control(wire, self._house.voice.wire(), mailbox, heard=self._heard).open()
            for place, number in self._parts:
                await self._control.listen(place.lock(number))
        return self._control

    async def _clear_away(self, control: Control) -> None:
        while self._useless:
            part = self._useless.pop()
            if part.wire is control.wire:
                await control.ask("queue_delete", queue=part.place.lock(part.part))

    def _heard(self, word: Word) -> None:
        assert self._control is not None
        if word.kind == "free":
            self._steward.stir()
            return
        key = next((key for key in self._parts if key[0].lock(key[1]) == word.place), None)
        if key is None:
            if word.place == self._control.mailbox:
                self._control.say(word.back, Word(ANSWER, word.number))
            return
        part, count = self._parts[key], self._count(key[0])
        if word.kind == "anew":
            part.cancelled()
            self._steward.stir()
        if word.kind == "who":
            self._neighbours.add(word.back)
        if word.kind in ("who", "count"):
            self._control.say(word.back, Word(ANSWER, word.number, self._me, word.place, count, part.unsettled))
        elif word.kind == "give" and part.leaving is None and count > word.parts + 1:
            part.leaving, part.heir = self._clock.monotonic() + self._lease, word.back
            self._steward.stir()

    def _count(self, place: Place) -> int:
        return sum(at == place and part.leaving is None for (at, _), part in self._parts.items())

    def _ask_for_share(self, control: Control, place: Place, others: Sequence[Word]) -> None:
        """From who has most, half of what it has more."""
        mine = self._count(place)
        richest = max(others, key=lambda word: word.parts, default=None)
        if richest is None or richest.parts < mine + 2:
            return
        theirs = [word.place for word in others if word.back == richest.back]
        for number, lock in enumerate(theirs[: (richest.parts - mine) // 2]):
            control.say(lock, Word("give", 0, control.mailbox, lock, mine + number))

    # -- letting go

    async def _let_go(self, control: Control) -> None:
        now = self._clock.monotonic()
        going = [part for part in self._parts.values() if part.leaving is not None]
        going = [part for part in going if not part.out or (part.leaving or 0.0) <= now]
        if not going:
            return
        fenced = any(part.out for part in going)
        heirs = {part.heir for part in going}
        self._given |= dict.fromkeys([(part.place, part.part) for part in going], now + FOR_HEIRS)
        await self._give_up(control, going)
        if fenced:
            self._fence()
        for heir in heirs:
            control.say(heir, Word("free"))

    async def _give_up(self, control: Control, parts: Sequence[Part]) -> None:
        """Nobody has these; what is out of them comes again, without being an attempt."""
        if not parts:
            return
        for part in parts:
            part.leaving = 0.0
        await self._write([(part, part.left()) for part in parts])
        for part in parts:
            key = part.place, part.part
            await part.close()
            self._parts.pop(key, None)
            await control.ask("queue_delete", queue=part.place.lock(part.part))
            self._house.had.discard(part.place.lock(part.part))

    async def close(self) -> None:
        """See Line. It goes on where whoever waits for it is cancelled."""
        self._news.set()
        await self._steward.leave(self._leave)

    async def _leave(self) -> None:
        self._drop_dead()
        control = self._control
        with contextlib.suppress(BrokerError):
            if control is not None and control.usable:
                await self._give_up(control, list(self._parts.values()))
                for neighbour in self._neighbours:
                    control.say(neighbour, Word("free"))
        with contextlib.suppress(BrokerError):
            await self._forsake()
        self._house.connection.users.discard(self)

    async def _forsake(self) -> None:
        """What could not be given away in order, and what is only ours."""
        useless = [*self._useless, *self._parts.values()]
        self._parts.clear()
        queues = [part.place.lock(part.part) for part in useless if self._house.connection.up]
        for part in useless:
            part.abandon()
            self._house.had.discard(part.place.lock(part.part))
        if self._control is not None:
            self._control.abandon()
            queues.append(self._control.mailbox)
        channel = await Channel(self._house.connection.wire()).open()
        for queue in queues:
            await channel.ask("queue_delete", queue=queue)
        channel.abandon()
