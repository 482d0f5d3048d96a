"""Two brokers that are kept connected: what is published at one is published at the other, under the same id.

A group at the first one remembers how far it is. An event says in a header which brokers it has been to, and never goes
where it has been: two bridges in opposite directions, or a ring of them, make no loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from tidings import failpoint
from tidings.broker import Broker, Delivery, Record, Start, Subscription
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, Fenced, PublishFailed, StorageBroken

log = logging.getLogger("tidings")

VIA = "tidingsvia"
BATCH = 500
WAIT = 1.0
PAUSE = 0.5
LOOK = 2.0
SELDOM = 10.0
"""Seconds between two looks for topics that are new, at the least, and how many times as long as a look takes."""
GROUP = "bridge."

Topics = Mapping[str, Start | float]
"""What is carried, and where a bridge that is new begins in it."""
Look = Callable[[], Awaitable[Topics]]


def mark(place: str) -> str:
    """What stands for a broker in the header of events: the same for everybody who names it by the same URL."""
    return blake2b(place.encode(), digest_size=6).hexdigest()


def group_of(there: str) -> str:
    """The group that remembers how far the events have come on their way to the broker of this mark."""
    return GROUP + there


class End(NamedTuple):
    """A broker, and what stands for it."""

    broker: Broker
    mark: str


class Bridge:
    """One direction, from `here` to `there`. `progress` is told how many events more have been carried."""

    def __init__(self, here: End, there: End, clock: Clock, progress: Callable[[int], None]) -> None:
        self._here = here
        self._there = there
        self._clock = clock
        self._progress = progress
        self.topics: Topics = {}
        self._member: Subscription | None = None
        self._next_look = 0.0
        self.carried = 0
        self.kept_back = 0

    async def run(self, look: Look, stop: asyncio.Event) -> None:
        """Carry events until `stop`, also those of topics that `look` finds later.

        Raises what no waiting mends, such as a body that is too large over there.
        """
        await self._listen(look)
        try:
            while not stop.is_set():
                try:
                    await self._listen(look)
                    await self._step(stop)
                except Fenced:
                    log.info("another bridge has taken over some of the keys")
                except (StorageBroken, Closed):
                    raise
                except BrokerError as error:
                    log.warning("the bridge waits: %s", error)
                    await self._clock.wait(stop, PAUSE)
        finally:
            await self._leave()

    async def _listen(self, look: Look) -> None:
        """Hear all topics, also those that are new where it is time to look for them."""
        began = self._clock.monotonic()
        if began >= self._next_look:
            try:
                found = await look()
            finally:
                now = self._clock.monotonic()
                self._next_look = now + max(LOOK, SELDOM * (now - began))
            if found.keys() - self.topics.keys():
                await self._leave()
                self.topics = found
        if self._member is None and self.topics:
            await self._join()

    async def _join(self) -> None:
        group = group_of(self._there.mark)
        for topic, start in self.topics.items():
            await self._there.broker.declare(topic, ())
            await self._here.broker.declare(topic, [group], start)
        self._member = await self._here.broker.subscribe(list(self.topics), group)

    async def _leave(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            await member.close()

    async def _step(self, stop: asyncio.Event) -> None:
        if self._member is None:
            await self._clock.wait(stop, PAUSE)
            return
        lent = await self._member.fetch(BATCH, WAIT)
        records = [self._carried(each) for each in lent if self._may_go(each.record)]
        if lent and await self._publish(records, stop):
            failpoint.hit("carried")
            await self._member.ack(lent)
            self.carried += len(records)
            self.kept_back += len(lent) - len(records)
            self._progress(len(records))

    def _may_go(self, record: Record) -> bool:
        been = record.headers.get(VIA, "").split(".")
        return self._here.mark not in been and self._there.mark not in been

    def _carried(self, delivery: Delivery) -> Record:
        headers = delivery.record.headers
        via = ".".join(filter(None, (headers.get(VIA), self._here.mark)))
        return msgspec.structs.replace(delivery.record, headers={**headers, VIA: via})

    async def _publish(self, records: Sequence[Record], stop: asyncio.Event) -> bool:
        """However long it takes; whether all are there: not, where it is to stop before."""
        while records:
            try:
                await self._there.broker.publish(records)
            except (StorageBroken, Closed):
                raise
            except BrokerError as error:
                log.warning("the bridge waits for the other side: %s", error)
                unsent = set(error.unsent) if isinstance(error, PublishFailed) else None
                records = [record for record in records if unsent is None or record.id in unsent]
                if await self._clock.wait(stop, PAUSE):
                    return False
            else:
                return True
        return True
