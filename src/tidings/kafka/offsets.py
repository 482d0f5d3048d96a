"""What is asked of Kafka beside records: topics, where a group stands, where to begin. Blocking, for a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._topic import TopicDescription
from confluent_kafka.cimpl import OFFSET_SPEC_EARLIEST, OFFSET_SPEC_LATEST, NewTopic

from tidings.broker import Start
from tidings.kafka.ledger import Ledger
from tidings.kafka.spare import Spare

T = TypeVar("T")
SPECS = {Start.EARLIEST: OFFSET_SPEC_EARLIEST, Start.LATEST: OFFSET_SPEC_LATEST}
ANSWER = 10.0
"""Seconds that Kafka has for an answer."""
RESERVED = 16_384
"""Bytes of a message that are not its body: key, headers, framing."""


class Topic(NamedTuple):
    """A topic as it is: deleted and made again it has another id, and where it does not exist no partitions."""

    id: str
    partitions: Sequence[int]


NOWHERE = Topic("", ())


class Offsets:
    """Questions to one cluster. Raises KafkaException.

    Each holds on to the client until it has its answer: of a client that is given up, none would come.
    """

    def __init__(self, admin: Spare[AdminClient], consumer: Callable[[str], Consumer]) -> None:
        self._admin = admin
        self._consumer = consumer

    def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        """All of these."""
        admin = self._admin.get()
        asked = admin.describe_topics(TopicCollection(list(names)), request_timeout=ANSWER) if names else {}
        return {name: described(told) for name, told in asked.items()}

    def topic(self, name: str) -> Topic:
        """This one."""
        return self.topics([name])[name]

    def existing(self, name: str) -> Topic:
        """A topic that was just made, and of which not every broker may know."""
        found = self.topic(name)
        if found is NOWHERE:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return found

    def create(self, name: str, partitions: int, replication: int, keep: float | None) -> None:
        """Make a topic, unless somebody else just did. `keep` in seconds, infinite for ever."""
        config = {} if keep is None else {"retention.ms": "-1" if keep == float("inf") else str(int(keep * 1000))}
        new = NewTopic(name, partitions, replication, config=config)
        admin = self._admin.get()
        try:
            answer(admin.create_topics([new], operation_timeout=ANSWER, request_timeout=ANSWER)[name])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def largest(self, name: str) -> int | None:
        """The limit of a message on this topic, in bytes; None where Kafka does not say."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        admin = self._admin.get()
        try:
            told = answer(admin.describe_configs([resource], request_timeout=ANSWER)[resource])
        except KafkaException:
            return None
        return int(told["max.message.bytes"].value)

    def edge(self, topic: str, partitions: Sequence[int], start: Start | float) -> dict[int, int]:
        """The offsets of the beginning, the end, or the first record that is not before a time."""
        spec = cast(Any, OffsetSpec)(SPECS[start] if isinstance(start, Start) else max(int(start * 1000), 0))
        admin = self._admin.get()
        asked = admin.list_offsets(
            {TopicPartition(topic, number): spec for number in partitions}, request_timeout=ANSWER
        )
        found = {each.partition: answer(told).offset for each, told in asked.items()}
        missing = [number for number, offset in found.items() if offset < 0]
        return found | self.edge(topic, missing, Start.LATEST) if missing else found

    def group(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, Ledger]:
        """Where a group stands on the partitions on which it has been."""
        with self._standing(group) as consumer:
            found = consumer.committed([TopicPartition(topic, number) for number in partitions], timeout=ANSWER)
        return {each.partition: recalled(each) for each in found if checked(each).offset >= 0}

    def move(self, group: str, topic: str, to: Mapping[int, int], name: str = "") -> bool:
        """Put a group at these offsets, as the seek of this name wants it. False where it has members."""
        told = Ledger(topic, 0, 0)
        told.place = name
        places = [TopicPartition(topic, number, offset, told.told()) for number, offset in to.items()]
        with self._standing(group) as consumer:
            try:
                for each in consumer.commit(offsets=places, asynchronous=False) or ():
                    checked(each)
            except KafkaException as error:
                if error.args[0].code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION):
                    return False
                raise
        return True

    @contextlib.contextmanager
    def _standing(self, group: str) -> Generator[Consumer]:
        """A consumer that is no member. AdminClient 2.16 could be asked, and dies of a coordinator not ready."""
        consumer = self._consumer(group)
        try:
            yield consumer
        finally:
            consumer.close()


def answer(told: Future[T]) -> T:
    """What Kafka says, or the client, when the time for it is over."""
    try:
        return told.result(2 * ANSWER)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None


def described(told: Future[TopicDescription]) -> Topic:
    """A topic from what Kafka says of it."""
    try:
        found = answer(told)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return NOWHERE
        raise
    return Topic(str(found.topic_id), sorted(each.id for each in found.partitions))


def checked(place: TopicPartition) -> TopicPartition:
    """Raises KafkaException where Kafka could not answer for this partition."""
    if place.error is not None:
        raise KafkaException(place.error)
    return place


def recalled(place: TopicPartition) -> Ledger:
    """What is remembered of a partition, from what Kafka keeps."""
    return Ledger(place.topic, place.partition, place.offset, place.metadata or "")
