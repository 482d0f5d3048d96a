"""confluent-kafka by hand: an idempotent producer flushed a batch, batches consumed, offsets committed behind them."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from confluent_kafka import Consumer, KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.brokers.client import BATCH, GROUP, PATIENCE, Pair

PARTITIONS = 12
DEADLINE = 30.0
PRODUCER = {"acks": "all", "enable.idempotence": True, "linger.ms": 5, "batch.size": 1_000_000}
CONSUMER = {"auto.offset.reset": "earliest", "enable.auto.commit": False, "fetch.wait.max.ms": 100,
            "queued.min.messages": 100_000}  # fmt: skip


class Plain:
    """See client.Client."""

    def __init__(self, url: str, topic: str) -> None:
        self._servers: dict[str, str | int | float | bool] = {"bootstrap.servers": urlsplit(url).netloc}
        self._topic = topic
        self._producer = Producer({**self._servers, **PRODUCER})
        self._consumer: Consumer | None = None
        self._unsent: list[KafkaError] = []

    async def open(self) -> None:
        """Nothing: librdkafka connects when it has to."""

    async def declare(self) -> None:
        """As many partitions as tidings makes; a new group begins with their beginning."""
        admin = AdminClient(self._servers)
        admin.create_topics([NewTopic(self._topic, PARTITIONS, 1)])[self._topic].result(DEADLINE)

    async def publish(self, pairs: Sequence[Pair]) -> None:
        """Produce all, wait for the last acknowledgement."""
        produce, topic = self._producer.produce, self._topic
        for key, body in pairs:
            produce(topic, body, key, on_delivery=self._told)
        self._producer.flush(DEADLINE)
        if self._unsent:
            raise RuntimeError(f"Kafka did not take {len(self._unsent)}: {self._unsent[0]}")

    def _told(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._unsent.append(error)

    async def take(self) -> Sequence[bytes]:
        """The first as soon as it is there, and all that came with it."""
        if self._consumer is None:
            self._consumer = Consumer({**self._servers, **CONSUMER, "group.id": f"{GROUP}-{self._topic}"})
            self._consumer.subscribe([self._topic])
        first = self._consumer.poll(PATIENCE)
        if first is None:
            return []
        messages = [first, *self._consumer.consume(BATCH - 1, 0)]
        return [body for message in messages if (body := message.value()) is not None and message.error() is None]

    async def settle(self) -> None:
        """Commit in the background; `close` waits for the last one."""
        if self._consumer is not None:
            self._consumer.commit(asynchronous=True)

    async def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            self._consumer.close()
