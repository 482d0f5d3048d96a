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
from operator import attrgetter
from typing import Any, Protocol

import msgspec

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
        self.alone = False  # whether suspects are out, beside which nothing may be
        self._broker = broker
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
        self._void = False  # whether to give up all that is lent, and join anew
        self._patience: asyncio.Timeout | None = None
        self._done: list[Delivery] = []
        self._have_done = asyncio.Event()
        self._closed = False
        self._acker = asyncio.create_task(self._acknowledge(), name=f"{group} acknowledgements")

    # -- lending

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Subscription.fetch."""
        clock = self._broker.clock
        deadline = clock.monotonic() + wait
        while True:
            self._check()
            if self._void:
                await self._rejoin()
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
            if fresh and (plain := await self._sift(fresh)):
                return plain

    def _check(self) -> None:
        if self._closed:
            raise Closed(f"the subscription of {self._name} is closed")
        self._broker.check()

    async def _rejoin(self) -> None:
        """What was to be settled could not be: it comes again where that is due."""
        await self._line.close()
        self._forget_all()
        self._line = await self._join()  # where this fails, it is done again
        self._void = False

    async def _next(self, limit: int) -> Sequence[Delivery]:
        """What is there now. While something waits to be lent, nothing else is taken."""
        if self._ready:
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
                if self._ready:  # suspects: until nothing is out
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
        if self.alone and self._lent:
            return []
        self.alone = bool(self._suspects) and self._ready[0].receipt in self._suspects
        if not self.alone:
            lent = self._while_ready(limit, lambda each: each.receipt not in self._suspects)
        elif self._lent or self._broker.suspicious(self):
            self.alone = False
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
            known = [each for each in deliveries if each.receipt in self._lent]
            await self._line.done(known)
            self._forget(known)
            return
        unit = self._broker.store.unit() if tx is None else tx
        if self._inbox is None:
            unit.add(lambda parcel: parcel.steps.append(lambda: self._ack_in_parcel(deliveries)))
            return
        settled: list[Delivery] = []
        unit.add(self._finisher(deliveries, settled, self._inbox, alone=tx is None))
        unit.after(lambda: self._settle(settled))
        if tx is None:
            await unit.commit()
            await self._line.done(settled)

    def _finisher(
        self, deliveries: Sequence[Delivery], settled: list[Delivery], known_by: Inbox, *, alone: bool
    ) -> Callable[[Any], None]:
        """The step that settles these in the inbox; with the effects of others, all of them or none."""

        def step(connection: Any) -> None:
            known = {each.receipt: each for each in deliveries if each.receipt in self._lent}
            settled[:] = known.values()
            places = [_place(each) for each in settled]
            now = self._broker.clock.now()
            try:
                if len(settled) < len(deliveries) and not alone:
                    raise Fenced(f"{self._name} no longer holds some of what it settles; nothing of this is kept")
                new = known_by.finish(connection, places, epoch=self._epoch or 0, at=now)
                if new < len(places) and not alone:
                    raise Fenced(f"another member of {self._name} has done some of this; nothing of it is kept")
            except Fenced:
                self._void = True
                raise

        return step

    async def _ack_in_parcel(self, deliveries: Sequence[Delivery]) -> None:
        if any(each.receipt not in self._lent for each in deliveries):
            raise Fenced(f"{self._name} no longer holds some of the records that it settles")
        await self._line.done(deliveries)
        self._forget(deliveries)

    def _forget(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            self._lent.pop(each.receipt, None)
        if self._suspects:
            for each in deliveries:
                self._suspects.pop(each.receipt, None)
        if self.alone or self._ready:
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
                batch, self._done = self._done, []
                try:
                    await self._line.done(batch)
                except Fenced:
                    continue
                except asyncio.CancelledError:
                    self._done = batch + self._done
                    raise
                except Closed:
                    return
                except BrokerError as error:
                    log.warning("%s will acknowledge again: %s", self._name, error)
                    self._done = batch + self._done
                    await self._broker.clock.sleep(PAUSE)

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See Subscription.nack."""
        self._check()
        clock = self._broker.clock
        due = clock.monotonic() + delay if delay > 0 else 0.0
        mine = sorted((each for each in deliveries if each.receipt in self._lent), key=RECEIPT)
        tries = {_place(each): self._tries.get(_place(each), 0) + 1 for each in mine}
        if self._inbox is not None and mine:
            await self._inbox.again(tries, clock.now() + delay, clock.now())
        self._tries |= tries
        for each in mine:
            if self._lent.pop(each.receipt, None) is not None:
                self._suspects.pop(each.receipt, None)
                self._withdraw(each)
                self._held.put(msgspec.structs.replace(each, attempt=each.attempt + 1), due)
        self._wake()

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
        self._lent.clear()
        self._ready.clear()
        self._held.clear()
        self._suspects.clear()
        self._twins.clear()
        self._tries.clear()
        self._returned.clear()
        self._epoch = None
        self._done.clear()
        self.alone = False

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
