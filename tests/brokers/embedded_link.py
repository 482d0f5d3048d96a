"""A link made of the embedded broker, of which only that is used which a real server has."""

from collections.abc import Sequence

from tidings.broker import Delivery, Feature, Lag, Record, Start, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.link import Line


class EmbeddedLine:
    """See Line."""

    def __init__(self, subscription: Subscription) -> None:
        self.fetch = subscription.fetch
        self.close = subscription.close
        self._subscription = subscription

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See Line.done."""
        await self._subscription.ack(deliveries)


class EmbeddedLink:
    """See Link."""

    features = Feature.DURABLE | Feature.ORDERED | Feature.REPLAY | Feature.UNIQUE
    limit = None

    def __init__(self, broker: SqliteBroker) -> None:
        self.broker = broker
        self.open = broker.open
        self.close = broker.close
        self.declare = broker.declare
        self.seek = broker.seek

    async def publish(self, records: Sequence[Record]) -> None:
        """See Link.publish."""
        assert all(record.due is None for record in records)
        await self.broker.publish(records)

    async def join(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> Line:
        """See Link.join."""
        return EmbeddedLine(await self.broker.subscribe(topics, group, start))

    async def lag(self, topic: str, group: str) -> Lag:
        """See Link.lag."""
        return await self.broker.lag(topic, group)
