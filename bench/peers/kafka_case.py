"""FastStream on Kafka, by confluent-kafka; its defaults but for logging."""

from __future__ import annotations

import os
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faststream import AckPolicy  # type: ignore[import-not-found]
from faststream.confluent import KafkaBroker  # type: ignore[import-not-found]

from bench.peers.faststream_work import BATCH, main

PARTITIONS = 12


class Kafka:
    """See faststream_work.Peer."""

    def __init__(self, port: str) -> None:
        self.url = f"127.0.0.1:{port}"
        self.topic = f"orders{os.getpid()}"
        self.broker = KafkaBroker(self.url, logger=None)
        self.where = {"topic": self.topic}

    def subscribe(self, handler: Any, *, batch: bool, acked: bool) -> None:
        """A group that begins with the beginning. By default FastStream commits before it handles."""
        policy = {"ack_policy": AckPolicy.ACK} if acked else {}
        many = {"batch": True, "max_records": BATCH} if batch else {}
        given = {"group_id": "bench", "auto_offset_reset": "earliest", **policy, **many}
        self.broker.subscriber(self.topic, **given)(handler)

    async def declare(self) -> None:
        """Make a topic of its own."""
        admin = AdminClient({"bootstrap.servers": self.url})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result()


if __name__ == "__main__":
    main(Kafka)
