"""A member of a group on a link: what it is lent, what it holds back, what the inbox knows of it.

It keeps the order of a key: what failed is held back in memory with all that comes after it of its key, while the
broker's position waits behind it. What was out with a member that died is a suspect: lent with nothing else beside it,
a few together; after a second death one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any, Protocol

import msgspec

from tidings import failpoint
from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, Fenced
from tidings.held import Held, place_of
from tidings.inbox import Inbox, Memory, Place
from tidings.link import Line
from tidings.store import Store, Unit

log = logging.getLogger("tidings")

RECEIPT = attrgetter("receipt")
TOGETHER = 64
"""How many suspects of one death are lent together."""
FLUSH = 5.0
"""Seconds for what is still to be acknowledged when a member leaves."""
PAUSE = 0.5


class House(Protocol):
    """What a member needs of its connection."""

    store: Store
    clock: Clock

    def check(self) -> None:
        """Raises Closed where it is not open."""
        ...

    def forget(self, member: Member) -> None:
        """It is closed."""
        ...

    def suspicious(self, member: Member) -> bool:
        """Whether another group of this process has suspects out."""
        ...


class Member:
    """See Subscription. Safe for one task that fetches and others that settle."""

    def __init__(self, broker: House, group: str, line: Line, join: Callable[[], Awaitable[Line]]) -> None:
        self._broker = broker
        self._alone = False  # whether what is out are suspects
        self._line = line
        self._join = join
        self._name = group
        self._inbox = Inbox(broker.store, group, broker.clock.id()) if broker.store.keeps else None
        self._lent: dict[int, Delivery] = {}
        self._ready: deque[Delivery] = deque()
        self._held = Held()
        self._returned: list[Delivery] = []  # that have to be looked up once more
        self._suspects: dict[int, int] = {}  # with which attempt they came from the line
        self._twins: dict[Place, list[Delivery]] = {}  # by what is out: the same event, published more than once
        self._tries: dict[Place, int] = {}  # how often they were handed back
        self._epoch: int | None = None
        self._era = 0  # how often all that was lent was lost
        self._void = False  # whether to give up all that is lent, and join anew
        self._back = False  # whether all that is lent is to be lent again: its worker was fenced
        self._patience: asyncio.Timeout | None = None
        self._done: list[Delivery] = []
        self._have_done = asyncio.Event()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._acker = asyncio.create_task(self._acknowledge(), name=f"{group} acknowledgements")

    @property
    def alone(self) -> bool:
        """Whether suspects are out, beside which nothing may be."""
        return self._alone and bool(self._lent)

    def _holds(self, delivery: Delivery) -> bool:
        """Whether it is out: not one like it, of before the part was lost."""
        return self._lent.get(delivery.receipt) is delivery

    # -- lending

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Subscription.fetch."""
        clock = self._broker.clock
        deadline = clock.monotonic() + wait
        while True:
            self._check()
            if self._void or self._back:
                await self._give_up()
            if self._held:
                self._ready.extend(self._held.release(clock.monotonic()))
            if self._ready and (lent := self._lend(limit)):
                return lent
            fresh = await self._next(limit)
            if not fresh:
                waited = await self._wait(limit, deadline)
                if waited is None:
                    return []
                fresh = waited
            if fresh and (plain := await self._sift(fresh)) and not (self._void or self._back):
                return plain

    def _check(self) -> None:
        if self._closed:
            raise Closed(f"the subscription of {self._name} is closed")
        if self._acker.done():
            self._acker.result()
        self._broker.check()

    async def _give_up(self) -> None:
        """What was to be settled could not be: it comes again where that is due. Raises Fenced, so that all else is.

        Before that, whoever waited for that settlement has to have heard of it: the store answers in turn.
        """
        if self._inbox is not None:
            await self._inbox.answer()
        if self._void:
            await self._line.close()
            self._forget_all()
            self._line = await self._join()  # where this fails, it is done again
            self._void = False
        else:
            self._take_back()
        raise Fenced(f"{self._name} could not settle something; what it was lent comes again")

    def _take_back(self) -> None:
        """Its worker has dropped everything. What comes again is not the same as before: that may still be settled."""
        self._back = False
        again = [msgspec.structs.replace(each) for each in [*self._lent.values(), *self._ready]]
        for each in again:
            if self._held.holds_back(each):
                self._held.put(each)
        rest = sorted((each for each in again if not self._held.holds_back(each)), key=RECEIPT)
        self._returned = [*rest, *self._returned]
        self._lent.clear()
        self._ready.clear()

    async def _next(self, limit: int) -> Sequence[Delivery]:
        """What is there now. While something waits to be lent, nothing else is taken."""
        if self._ready or self.alone:
            return ()
        if self._returned:
            returned, self._returned = self._returned, []
            return returned
        return await self._from_line(limit, 0.0)

    async def _from_line(self, limit: int, wait: float) -> Sequence[Delivery]:
        try:
            return await self._line.fetch(limit, wait)
        except Fenced:
            self._forget_all()
            raise

    async def _wait(self, limit: int, deadline: float) -> Sequence[Delivery] | None:
        """What comes before the deadline, or nothing when something else may be lent; None where time is over."""
        now = self._broker.clock.monotonic()
        if now >= deadline:
            return None
        due = self._held.due
        wait = max((deadline if due is None else min(deadline, due)) - now, 0.001)
        try:
            async with asyncio.timeout(None) as self._patience:
                if self._ready or self.alone:  # suspects: until nothing is out
                    await self._broker.clock.sleep(min(wait, 0.05))
                    return ()
                return await self._from_line(limit, wait)
        except TimeoutError:
            return ()
        finally:
            self._patience = None

    def _wake(self) -> None:
        """Something may be lent that does not come from the line."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def _sift(self, fresh: Sequence[Delivery]) -> Sequence[Delivery]:
        """What may be lent at once; the rest is put where it belongs."""
        self._suspects |= {each.receipt: each.attempt for each in fresh if each.attempt > 1}
        if self._inbox is not None:
            try:
                fresh = await self._unknown(fresh, self._inbox)
            except BaseException:
                self._returned = [*fresh, *self._returned]
                raise
        if not (self._held or self._ready or self._suspects):
            self._lent.update(zip(map(RECEIPT, fresh), fresh, strict=True))
            return fresh
        for each in fresh:
            if self._held.holds_back(each):
                self._held.put(each)
            else:
                self._ready.append(each)
        return ()

    async def _unknown(self, fresh: Sequence[Delivery], known_by: Inbox) -> list[Delivery]:
        """Without those that are done already, and with what is remembered of the others."""
        remembered: dict[Place, Memory] = {}
        if self._epoch is None:
            self._epoch = await known_by.epoch()
        for topic in dict.fromkeys(each.record.topic for each in fresh):
            ids = [each.record.id for each in fresh if each.record.topic == topic]
            found = await known_by.known(topic, ids)
            remembered |= {(topic, id): memory for id, memory in found.items()}
        foreign = [_place(each) for each in fresh if each.attempt > 1 or _place(each) in remembered]
        if claimed := [place for place in foreign if place not in remembered or not remembered[place].done]:
            await known_by.claim(claimed, self._broker.clock.now())
        return self._unsettled(fresh, remembered)

    def _unsettled(self, fresh: Sequence[Delivery], remembered: Mapping[Place, Memory]) -> list[Delivery]:
        keep: list[Delivery] = []
        out = {_place(each) for each in self._all()}
        for each in fresh:
            place = _place(each)
            memory = remembered.get(place)
            if memory is not None and memory.done:
                self._settle([each])
            elif place in out:
                self._twins.setdefault(place, []).append(each)
            else:
                out.add(place)
                keep += [each] if memory is None else self._remembered(each, memory)
        return keep

    def _all(self) -> list[Delivery]:
        return [*self._lent.values(), *self._ready, *self._returned, *self._held]

    def _remembered(self, delivery: Delivery, memory: Memory) -> Sequence[Delivery]:
        """It was handed back before: it is lent with its attempt, when it is due."""
        again = msgspec.structs.replace(delivery, attempt=delivery.attempt + memory.tries)
        self._tries[_place(again)] = memory.tries
        left = memory.due - self._broker.clock.now()
        if left <= 0:
            return [again]
        self._held.put(again, self._broker.clock.monotonic() + left)
        return ()

    def _lend(self, limit: int) -> list[Delivery]:
        """Of what is ready; suspects with nothing beside them."""
        if self.alone:
            return []
        self._alone = bool(self._suspects) and self._ready[0].receipt in self._suspects
        if not self._alone:
            lent = self._while_ready(limit, lambda each: each.receipt not in self._suspects)
        elif self._lent or self._broker.suspicious(self):
            return []
        elif self._suspects[self._ready[0].receipt] > 2:
            lent = [self._ready.popleft()]
        else:
            lent = self._while_ready(min(limit, TOGETHER), lambda each: self._suspects.get(each.receipt) == 2)
        self._lent.update(zip(map(RECEIPT, lent), lent, strict=True))
        return lent

    def _while_ready(self, limit: int, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        taken: list[Delivery] = []
        while self._ready and len(taken) < limit and wanted(self._ready[0]):
            taken.append(self._ready.popleft())
        return taken

    # -- settling

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """See Subscription.ack."""
        self._check()
        if tx is None and self._inbox is None:
            known = [each for each in deliveries if self._holds(each)]
            await self._line.done(known)
            self._forget(known)
            return
        unit = self._broker.store.unit() if tx is None else tx
        if self._inbox is None:
            unit.add(lambda parcel: parcel.steps.append(lambda: self._ack_in_parcel(deliveries)))
            return
        settled: list[Delivery] = []
        unit.add(self._finisher(deliveries, settled, self._inbox, alone=tx is None))
        era = self._era
        unit.after(lambda: self._settle(settled) if era == self._era else None)
        if tx is None:
            await unit.commit()
            await self._line.done(settled if era == self._era else ())

    def _finisher(
        self, deliveries: Sequence[Delivery], settled: list[Delivery], known_by: Inbox, *, alone: bool
    ) -> Callable[[Any], None]:
        """The step that settles these in the inbox; with the effects of others, all of them or none."""

        def step(connection: Any) -> None:
            known = {each.receipt: each for each in deliveries if self._holds(each)}
            settled[:] = known.values()
            places = [_place(each) for each in settled]
            now = self._broker.clock.now()
            if len(settled) < len(deliveries) and not alone:
                self._give_back()
                raise Fenced(f"{self._name} no longer holds some of what it settles; nothing of this is kept")
            try:
                new = known_by.finish(connection, places, epoch=self._epoch or 0, at=now)
                if new < len(places) and not alone:
                    raise Fenced(f"another member of {self._name} has done some of this; nothing of it is kept")
            except Fenced:
                self._void = True
                self._give_back()
                raise

        return step

    def _give_back(self) -> None:
        """From any thread: the worker will drop all that it was lent."""
        self._back = True
        self._loop.call_soon_threadsafe(self._wake)

    async def _ack_in_parcel(self, deliveries: Sequence[Delivery]) -> None:
        if not all(map(is_, map(self._lent.get, map(RECEIPT, deliveries)), deliveries)):
            self._give_back()
            raise Fenced(f"{self._name} no longer holds some of the records that it settles")
        await self._line.done(deliveries)
        self._forget(deliveries)

    def _forget(self, deliveries: Sequence[Delivery]) -> None:
        lent = self._lent
        for each in deliveries:
            if lent.get(each.receipt) is each:
                del lent[each.receipt]
        if self._suspects:
            for each in deliveries:
                self._suspects.pop(each.receipt, None)
        if self._ready or self._alone:
            self._wake()

    def _settle(self, deliveries: Sequence[Delivery]) -> None:
        """The inbox has them as done: tell the broker, soon."""
        self._done += deliveries
        for each in deliveries if self._twins or self._tries else ():
            self._done += self._twins.pop(_place(each), ())
            self._tries.pop(_place(each), None)
        self._forget(deliveries)
        self._have_done.set()

    async def _acknowledge(self) -> None:
        """Tell the broker what the inbox knows; until that is kept it is told again."""
        while True:
            await self._have_done.wait()
            self._have_done.clear()
            while self._done:
                batch, self._done, era = self._done, [], self._era
                failpoint.hit("acknowledging")
                try:
                    await self._line.done(batch)
                except (Fenced, Closed):  # they come again, and the inbox knows them
                    continue
                except asyncio.CancelledError:
                    self._done = batch + self._done
                    raise
                except BrokerError as error:
                    log.warning("%s will acknowledge again: %s", self._name, error)
                    self._done = batch + self._done if era == self._era else self._done
                    await self._broker.clock.sleep(PAUSE)

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See Subscription.nack."""
        self._check()
        clock = self._broker.clock
        due = clock.monotonic() + delay if delay > 0 else 0.0
        mine = sorted(filter(self._holds, deliveries), key=RECEIPT)
        tries = {_place(each): self._tries.get(_place(each), 0) + 1 for each in mine}
        self._tries |= tries
        for each in mine:  # at once: nothing of its key may be lent while the inbox is written
            del self._lent[each.receipt]
            self._suspects.pop(each.receipt, None)
        for each in mine:
            self._withdraw(each)
            self._held.put(msgspec.structs.replace(each, attempt=each.attempt + 1), due)
        self._wake()
        if self._inbox is not None and mine:
            await self._inbox.again(tries, clock.now() + delay, clock.now())

    def _withdraw(self, delivery: Delivery) -> None:
        """Later ones of the key wait behind it."""
        if delivery.record.key is None:
            return
        place = place_of(delivery)
        later = [each for each in self._lent.values() if each.receipt > delivery.receipt and place_of(each) == place]
        for each in later:
            del self._lent[each.receipt]
            self._held.put(each)
        waiting = [each for each in self._ready if place_of(each) == place and each.receipt > delivery.receipt]
        for each in waiting:
            self._ready.remove(each)
            self._held.put(each)

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """See Subscription.extend: the link keeps what is out for as long as its process lives."""

    def _forget_all(self) -> None:
        self._era += 1
        self._lent.clear()
        self._ready.clear()
        self._held.clear()
        self._suspects.clear()
        self._twins.clear()
        self._tries.clear()
        self._returned.clear()
        self._epoch = None
        self._back = False
        self._done.clear()

    async def close(self) -> None:
        """See Subscription.close."""
        if self._closed:
            return
        self._closed = True
        self._broker.forget(self)
        self._acker.cancel()
        with contextlib.suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(FLUSH):
                if self._done:
                    await self._line.done(self._done)
        self._wake()
        await self._line.close()


def _place(delivery: Delivery) -> Place:
    return delivery.record.topic, delivery.record.id
