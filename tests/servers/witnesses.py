"""Plain clients that write to a server and read all of it back, to see what a fault leaves."""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from pathlib import Path

import confluent_kafka
import nats
import pika
import psycopg
import redis.asyncio
from confluent_kafka.admin import AdminClient, NewTopic


class Witness(ABC):
    """Writes in one place of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"witness_{uuid.uuid4().hex}"

    @abstractmethod
    async def write(self, body: bytes) -> None:
        """Returns when the server has acknowledged it."""

    def kept(self, folder: Path) -> bool:
        """Whether the place itself is on the server's disk, and not only what was written in it."""
        return folder.is_dir()

    @abstractmethod
    async def read(self) -> list[bytes]:
        """All that was written, in order."""


class NatsWitness(Witness):
    async def write(self, body: bytes) -> None:
        client = await nats.connect(self.url)
        try:
            await client.jetstream().add_stream(name=self.name, subjects=[self.name])
            await client.jetstream().publish(self.name, body)
        finally:
            await client.close()

    async def read(self) -> list[bytes]:
        client = await nats.connect(self.url)
        try:
            info = await client.jetstream().stream_info(self.name)
            read = client.jetstream().get_msg
            return [(await read(self.name, seq)).data or b"" for seq in range(1, info.state.messages + 1)]
        finally:
            await client.close()


class PostgresWitness(Witness):
    async def write(self, body: bytes) -> None:
        async with await psycopg.AsyncConnection.connect(self.url) as client:
            await client.execute(f"CREATE TABLE IF NOT EXISTS {self.name} (id bigserial, body bytea)")
            await client.execute(f"INSERT INTO {self.name} (body) VALUES (%s)", [body])

    async def read(self) -> list[bytes]:
        async with await psycopg.AsyncConnection.connect(self.url) as client:
            rows = await client.execute(f"SELECT body FROM {self.name} ORDER BY id")
            return [body for (body,) in await rows.fetchall()]


class ValkeyWitness(Witness):
    async def write(self, body: bytes) -> None:
        async with redis.asyncio.Redis.from_url(self.url) as client:
            await client.xadd(self.name, {"body": body})

    async def read(self) -> list[bytes]:
        async with redis.asyncio.Redis.from_url(self.url) as client:
            return [fields[b"body"] for _, fields in await client.xrange(self.name)]


class RabbitWitness(Witness):
    """A quorum queue, whose messages are put back when they have been read."""

    async def write(self, body: bytes) -> None:
        await asyncio.to_thread(self._write, body)

    async def read(self) -> list[bytes]:
        return await asyncio.to_thread(self._read)

    def kept(self, folder: Path) -> bool:
        """RabbitMQ writes the names of its queues behind, about a second after they were declared."""
        return any(self.name.encode() in path.read_bytes() for path in folder.rglob("quorum/*/names.dets"))

    def _write(self, body: bytes) -> None:
        with pika.BlockingConnection(pika.URLParameters(self.url)) as client:
            channel = client.channel()
            channel.confirm_delivery()
            channel.queue_declare(self.name, durable=True, arguments={"x-queue-type": "quorum"})
            persistent = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish("", self.name, body, properties=persistent, mandatory=True)

    def _read(self) -> list[bytes]:
        with pika.BlockingConnection(pika.URLParameters(self.url)) as client:
            channel, bodies = client.channel(), []
            while (message := channel.basic_get(self.name))[0] is not None:
                bodies.append(message[2])
            return bodies


class KafkaWitness(Witness):
    async def write(self, body: bytes) -> None:
        await asyncio.to_thread(self._write, body)

    async def read(self) -> list[bytes]:
        return await asyncio.to_thread(self._read)

    @property
    def _settings(self) -> dict[str, str]:
        return {"bootstrap.servers": self.url.removeprefix("kafka://"), "log_level": "0"}

    def _write(self, body: bytes) -> None:
        admin = AdminClient(self._settings)
        if self.name not in admin.list_topics(timeout=10).topics:
            admin.create_topics([NewTopic(self.name, 1, 1)])[self.name].result()
        errors: list[object] = []
        producer = confluent_kafka.Producer(self._settings)
        producer.produce(self.name, body, on_delivery=lambda error, _: errors.append(error))
        producer.flush(30)
        assert errors == [None]

    @staticmethod
    def _end(consumer: confluent_kafka.Consumer, part: confluent_kafka.TopicPartition) -> int:
        """A server that was killed answers for a while before it leads what it has."""
        until = time.monotonic() + 60.0
        while True:
            try:
                return consumer.get_watermark_offsets(part, timeout=30)[1]
            except confluent_kafka.KafkaException:
                if time.monotonic() > until:
                    raise
            time.sleep(0.1)

    def _read(self) -> list[bytes]:
        consumer = confluent_kafka.Consumer(self._settings | {"group.id": self.name})
        try:
            part = confluent_kafka.TopicPartition(self.name, 0, 0)
            consumer.assign([part])
            end = self._end(consumer, part)
            return [message.value() for message in consumer.consume(end, timeout=30)]
        finally:
            consumer.close()


WITNESSES: dict[str, type[Witness]] = {
    "kafka": KafkaWitness,
    "nats": NatsWitness,
    "postgres": PostgresWitness,
    "rabbitmq": RabbitWitness,
    "valkey": ValkeyWitness,
}
