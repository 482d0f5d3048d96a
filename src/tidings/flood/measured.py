"""A broker that notes what passes through it: how a flood measures an app without changing it.

It stands where the app's broker stands and passes everything on. What is published or acknowledged is noted when the
commit that holds it is durable (`Unit.after`), for handlers of every kind, and the worker keeps its fast path, which a
middleware would take from it. It costs about a microsecond an event, and one write to a file a commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter

from tidings.broker import Broker, Delivery, Feature, Lag, Record, Start, Subscription
from tidings.clock import Clock
from tidings.flood.notes import BACK, SETTLED, TOLD, Notebook
from tidings.store import Unit

RECORD = attrgetter("record")


class MeasuredBroker:
    """See Broker."""

    def __init__(self, broker: Broker, notebook: Notebook, clock: Clock) -> None:
        self._broker = broker
        self._notebook = notebook
        self._clock = clock
        self.features: Feature = broker.features

    async def open(self) -> None:
        """See Broker.open."""
        await self._broker.open()

    async def close(self) -> None:
        """See Broker.close."""
        await self._broker.close()

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Broker.declare."""
        await self._broker.declare(topic, groups, start)

    async def publish(self, records: Sequence[Record], tx: Unit | None = None) -> None:
        """See Broker.publish."""
        await self._broker.publish(records, tx)
        if tx is None:
            self._published(records)
        else:
            tx.after(lambda: self._published(records))

    def _published(self, records: Sequence[Record]) -> None:
        at = self._clock.monotonic()
        topics: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            topics[record.topic].append(record)
        for topic, told in topics.items():
            self._notebook.note(TOLD, topic, told, at)

    async def subscribe(
        self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST
    ) -> Subscription:
        """See Broker.subscribe."""
        subscription = await self._broker.subscribe(topics, group, start)
        return subscription if group is None else Measured(subscription, group, self._notebook, self._clock)

    async def lag(self, topic: str, group: str) -> Lag:
        """See Broker.lag."""
        return await self._broker.lag(topic, group)

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Broker.seek."""
        await self._broker.seek(topic, group, to)


class Measured:
    """See Subscription."""

    def __init__(self, inner: Subscription, group: str, notebook: Notebook, clock: Clock) -> None:
        self._inner = inner
        self._group = group
        self._notebook = notebook
        self._clock = clock
        self.fetch = inner.fetch

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """See Subscription.ack."""
        await self._inner.ack(deliveries, tx)
        if tx is None:
            self._note(SETTLED, deliveries)
        else:
            tx.after(lambda: self._note(SETTLED, deliveries))

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See Subscription.nack."""
        await self._inner.nack(deliveries, delay)
        self._note(BACK, deliveries)

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """See Subscription.extend."""
        await self._inner.extend(deliveries, lease)

    async def close(self) -> None:
        """See Subscription.close."""
        await self._inner.close()

    def _note(self, kind: int, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            at = self._clock.monotonic()
            self._notebook.note(kind, self._group, map(RECORD, deliveries), at)
