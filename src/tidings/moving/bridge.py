"""Two brokers that are kept connected: what is published at one is published at the other, under the same id.

A group at the first one remembers how far it is. An event says in a header which brokers it has been to, and never goes
where it has been: two bridges in opposite directions, or a ring of them, make no loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
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
GROUP = "bridge."


def mark(place: str) -> str:
    """What stands for a broker in the header of events: the same for everybody who names it by the same URL."""
    return blake2b(place.encode(), digest_size=6).hexdigest()


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
        self.carried = 0
        self.kept_back = 0

    async def run(self, topics: Sequence[str], start: Start | float, stop: asyncio.Event) -> None:
        """Carry events until `stop`. Raises what no waiting mends, such as a body that is too large over there."""
        for topic in topics:
            await self._there.broker.declare(topic, ())
        member = await self._here.broker.subscribe(topics, GROUP + self._there.mark, start)
        try:
            while not stop.is_set():
                try:
                    await self._step(member, stop)
                except Fenced:
                    log.info("another bridge has taken over some of the keys")
                except (StorageBroken, Closed):
                    raise
                except BrokerError as error:
                    log.warning("the bridge waits: %s", error)
                    await self._clock.wait(stop, PAUSE)
        finally:
            await member.close()

    async def _step(self, member: Subscription, stop: asyncio.Event) -> None:
        lent = await member.fetch(BATCH, WAIT)
        records = [self._carried(each) for each in lent if self._may_go(each.record)]
        if lent and await self._publish(records, stop):
            failpoint.hit("carried")
            await member.ack(lent)
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
