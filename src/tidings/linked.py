"""A broker made of a link and a store: what a server lacks is supplied here, once for all of them.

Where there is a store, its inbox knows what a group has done, its outbox publishes what a transaction has committed,
and delays outlive the process. Without a store, what a handler publishes goes out before its event is acknowledged, a
delay lasts as long as its member, and what comes twice is handled twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tidings import failpoint, inbox, outbox
from tidings.broker import Delivery, Feature, Lag, Record, Start, Subscription
from tidings.clock import Clock
from tidings.errors import BodyTooLarge, BrokerError, Closed, InvalidEvent, NoStore
from tidings.inbox import Inbox
from tidings.link import Line, Link
from tidings.member import Member
from tidings.outbox import Outbox
from tidings.store import Store, Unit

log = logging.getLogger("tidings")

FLUSH = 5.0
"""Seconds for what is still to be published when a connection closes."""
KEEP = 7 * 86400.0
"""Seconds for which what was done is known: at least as long as the broker keeps it."""
EXPIRE_EVERY = 60.0


class Linked:
    """See Broker. `keep` in seconds: how long the inbox knows what was done. `limit` in bytes of a body.

    `lease` in seconds: how long a process that died keeps others from publishing what is in the outbox, at most.
    """

    def __init__(
        self,
        link: Link,
        store: Store,
        clock: Clock,
        *,
        keep: float | None = None,
        limit: int | None = None,
        lease: float = outbox.LEASE,
    ) -> None:
        self.link = link
        self.store = store
        self.clock = clock
        self.features = link.features | (Feature.DELAY | Feature.ATOMIC if store.keeps else Feature(0))
        self.outbox = Outbox(store, link, clock, lease=lease) if store.keeps else None
        self._keep = KEEP if keep is None else keep
        self._limit = limit
        self._members: dict[Member, None] = {}
        self._open = False
        self._housekeeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See Broker.open. The store is open already."""
        if self._open:
            return
        await self.link.open()
        self._open = True
        if self.outbox is not None:
            await self._tables()
            self.outbox.open()
            self._housekeeper = asyncio.create_task(self._expire(), name="tidings-inbox")

    async def _tables(self) -> None:
        unit = self.store.unit()
        unit.add(lambda connection: self.store.script(connection, inbox.SCHEMA + ";" + outbox.SCHEMA))
        await unit.commit()

    async def close(self) -> None:
        """See Broker.close."""
        if not self._open:
            return
        for member in list(self._members):
            await member.close()
        self._open = False
        if self.outbox is not None and self._housekeeper is not None:
            self._housekeeper.cancel()
            await self.outbox.close(FLUSH)
        await self.link.close()

    async def _expire(self) -> None:
        while True:
            try:
                await inbox.expire(self.store, self.clock.now() - self._keep)
            except BrokerError as error:
                log.warning("the inbox will be cleaned later: %s", error)
            await self.clock.sleep(EXPIRE_EVERY)

    def check(self) -> None:
        """Raises Closed where it is not open."""
        if not self._open:
            raise Closed("the connection to the broker is not open")
        if self.outbox is not None:
            self.outbox.check()

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Broker.declare."""
        self.check()
        await self.link.declare(topic, groups, start)

    async def publish(self, records: Sequence[Record], tx: Unit | None = None) -> None:
        """See Broker.publish."""
        self.check()
        if tx is not None:
            tx.add(self._publisher(records, tx))
            return
        if not records:
            return
        self._checked(records)
        failpoint.hit("publishing")
        if any(record.due is not None for record in records):
            records = await self._postpone(records)
        if records:
            await self.link.publish(records)
        failpoint.hit("published")

    def _checked(self, records: Sequence[Record]) -> None:
        limit = min(filter(None, (self._limit, self.link.limit)), default=None)
        told: Mapping[str, str] = {}
        for record in records:
            if limit is not None and len(record.value) > limit:
                raise BodyTooLarge(
                    f"A body of {len(record.value)} bytes for topic {record.topic} is over the limit of {limit}; "
                    "keep the payload elsewhere and publish a reference, or raise `body_limit` and the broker's own."
                )
            try:
                if not (record.id.isascii() and record.type.isascii() and (record.key or "").isascii()):
                    f"{record.id}{record.type}{record.key}".encode()
                if record.headers is not told:  # most have those of the one before
                    told = record.headers
                    "".join(told.values()).encode()
            except UnicodeError as error:
                raise InvalidEvent(f"An attribute of a record is no text: {error}. Nothing was published.") from error

    async def _postpone(self, records: Sequence[Record]) -> list[Record]:
        """Keep what is due later in the outbox; returns what is due now."""
        now = self.clock.now()
        later = [record for record in records if record.due is not None and record.due > now]
        if later and not self.store.keeps:
            raise NoStore("Publishing with a delay needs a store beside this broker; name one: --store sqlite:shop.db")
        if later:
            unit = self.store.unit()
            unit.add(self._publisher(later, unit))
            await unit.commit()
        return [
            msgspec.structs.replace(record, due=None) for record in records if record.due is None or record.due <= now
        ]

    def _publisher(self, records: Sequence[Record], tx: Unit) -> Callable[[Any], None]:
        """The step of a unit that publishes; the sequence is read when it runs."""
        if self.outbox is None:

            def publish(parcel: Any) -> None:
                if records:
                    parcel.steps.append(lambda: self.publish(records))

            return publish
        box = self.outbox
        mine = [False]
        tx.after(lambda: box.stir(mine[0]))

        def write(connection: Any) -> None:
            if records:
                mine[0] = box.write(connection, records)

        return write

    async def subscribe(
        self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST
    ) -> Subscription:
        """See Broker.subscribe."""
        self.check()
        line = await self.link.join(topics, group, start)
        if group is None:
            return View(line)
        member = Member(self, group, line, lambda: self.link.join(topics, group, start))
        self._members[member] = None
        return member

    def forget(self, member: Member) -> None:
        """It is closed."""
        self._members.pop(member, None)

    def suspicious(self, member: Member) -> bool:
        """Whether another group of this process has suspects out."""
        return any(other.alone for other in self._members if other is not member)

    async def lag(self, topic: str, group: str) -> Lag:
        """See Broker.lag."""
        self.check()
        return await self.link.lag(topic, group)

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Broker.seek. The inbox forgets what the group has done of the topic."""
        self.check()
        if not self.store.keeps:
            await self.link.seek(topic, group, to)
            return
        known_by = Inbox(self.store, group, self.clock.id())
        await known_by.forget(topic)
        await self.link.seek(topic, group, to)
        await known_by.forget(topic)  # what a member has begun in between


class View:
    """A private view: nothing to settle."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.fetch = line.fetch
        self.close = line.close

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """Nothing to do."""

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Nothing to do: a view reads each record once."""

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """Nothing to do."""
