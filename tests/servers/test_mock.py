"""The mock cluster in this process: the protocol of Kafka, and brokers that fail as told."""

import confluent_kafka
import pytest

from tidings.dev import MockKafka
from tidings.errors import BrokerError

PRODUCE = 0
TOPIC_AUTHORIZATION_FAILED = 29


def publish(cluster: MockKafka, topic: str, *, limit: int = 20_000) -> str | None:
    """Publish one event; the name of the error, if any."""
    outcome: list[confluent_kafka.KafkaError | None] = []
    settings = {"bootstrap.servers": cluster.url.removeprefix("kafka://"), "message.timeout.ms": limit, "log_level": 0}
    producer = confluent_kafka.Producer(settings)
    producer.produce(topic, b"one", on_delivery=lambda error, _: outcome.append(error))
    producer.flush(30)
    return outcome[0].name() if outcome[0] else None


def read(cluster: MockKafka, topic: str, count: int) -> list[bytes]:
    settings = {"bootstrap.servers": cluster.url.removeprefix("kafka://"), "group.id": "g", "log_level": 0}
    consumer = confluent_kafka.Consumer(settings)
    try:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()


def test_it_keeps_what_was_published() -> None:
    with MockKafka() as cluster:
        cluster.create("orders", partitions=1)
        assert publish(cluster, "orders") is None
        assert read(cluster, "orders", 1) == [b"one"]


def test_a_partition_moves_to_another_broker_when_its_leader_is_down() -> None:
    with MockKafka(brokers=2) as cluster:
        cluster.create("orders", replicas=2)
        cluster.lead("orders", 0, 1)
        cluster.down(1)
        assert publish(cluster, "orders", limit=500) == "_MSG_TIMED_OUT"
        cluster.lead("orders", 0, 2)
        assert publish(cluster, "orders") is None
        cluster.up(1)


def test_a_request_fails_as_told() -> None:
    with MockKafka(brokers=1) as cluster:
        cluster.create("orders")
        cluster.fail(PRODUCE, [TOPIC_AUTHORIZATION_FAILED])
        assert publish(cluster, "orders") == "TOPIC_AUTHORIZATION_FAILED"
        assert publish(cluster, "orders") is None


def test_what_cannot_be_is_an_error() -> None:
    with MockKafka(brokers=1) as cluster, pytest.raises(BrokerError, match=r"broker_set_down\(7,\)"):
        cluster.down(7)
