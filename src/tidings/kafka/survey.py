"""Looking at a Kafka cluster: its settings, and the topics and groups that lie there. librdkafka blocks: in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import OFFSET_SPEC_EARLIEST, OFFSET_SPEC_LATEST, OFFSET_SPEC_MAX_TIMESTAMP

from tidings.clock import Clock
from tidings.errors import Closed
from tidings.kafka.checkup import Copies, Seen, described, examine
from tidings.kafka.notes import GROUP
from tidings.kafka.offsets import ANSWER
from tidings.kafka.settings import Settings, broker_error, made
from tidings.survey import Census, Finding, Topic, Wish, unmonitored

OFFSETS = "__consumer_offsets"
INTERNAL = "__"
ABOUT = "Kafka cannot be looked at"
LEASE = 30.0
SECRET = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)

T = TypeVar("T")


class Surveyor:
    """See survey.Surveyor."""

    def __init__(self, url: str, clock: Clock, monitor: str | None = None) -> None:
        unmonitored(monitor)
        self._url = url
        self._settings = Settings(url, LEASE)
        self._said: list[KafkaError] = []
        self._client: AdminClient | None = None

    async def open(self) -> None:
        """See survey.Surveyor."""
        admin = made(AdminClient, self._settings.client() | {"error_cb": self._said.append, "log_level": 0})
        try:
            await asyncio.to_thread(admin.list_topics, timeout=ANSWER)
        except KafkaException as error:
            await asyncio.to_thread(admin.poll, 0)
            raise broker_error(self._said[0] if self._said else error, "Kafka cannot be reached") from error
        self._client = admin

    async def close(self) -> None:
        """See survey.Surveyor."""
        self._client = None

    async def _ask(self, question: Callable[[AdminClient], T]) -> T:
        if self._client is None:
            raise Closed("the connection to Kafka is not open")
        try:
            return await asyncio.to_thread(question, self._client)
        except KafkaException as error:
            raise broker_error(error, ABOUT) from error

    async def findings(self, wish: Wish) -> Sequence[Finding]:
        """See survey.Surveyor."""
        seen = await self._ask(self._seen)
        return list(examine(seen._replace(lease=Settings(self._url, wish.lease).lease), wish))

    def _seen(self, admin: AdminClient) -> Seen:
        found = admin.list_topics(timeout=ANSWER)
        copies = {name: _copies(each) for name, each in found.topics.items()}
        ours = self._ours(copies)
        kinds = ConfigResource.Type
        return Seen(
            brokers={int(id): told for id, told in _configs(admin, kinds.BROKER, map(str, found.brokers)).items()},
            topics=_configs(admin, kinds.TOPIC, ours),
            copies={name: copies[name] for name in ours},
            offsets=copies.get(OFFSETS),
            lease=self._settings.lease,
            newer=self._settings.newer,
            replication=self._settings.replication,
        )

    def _ours(self, names: Iterable[str]) -> list[str]:
        """Those of our prefix; without one, all but Kafka's own."""
        return sorted(n for n in names if n.startswith(self._settings.prefix) and not n.startswith(INTERNAL))

    async def census(self) -> Census:
        """See survey.Surveyor. Kafka tells the time of the newest record, not that of the oldest."""
        return await self._ask(self._census)

    def _census(self, admin: AdminClient) -> Census:
        found = admin.list_topics(timeout=ANSWER)
        partitions = {name: sorted(found.topics[name].partitions) for name in self._ours(found.topics)}
        members, topics_of = self._groups(admin)
        first, end, newest = (_offsets(admin, partitions, spec) for spec in SPECS)
        topics: list[Topic] = []
        for name in partitions:
            begun, ended = (sum(offset for offset, _ in each[name]) for each in (first, end))
            last = max((time for _, time in newest[name] if time > 0), default=None)
            groups = sorted(group for group, heard in topics_of.items() if name in heard)
            short = name.removeprefix(self._settings.prefix)
            topics.append(Topic(short, ended - begun, None, last and last / 1000, None, None, groups, ever=ended))
        return Census(topics, members)

    def _groups(self, admin: AdminClient) -> tuple[dict[str, int], dict[str, set[str]]]:
        """The groups of our prefix: how many members each has, and the topics on which it has been."""
        listed = admin.list_consumer_groups(request_timeout=ANSWER).result().valid
        prefix = self._settings.prefix
        ids = [each.group_id for each in listed if each.group_id.startswith(prefix) and each.group_id != prefix + GROUP]
        if not ids:
            return {}, {}
        described = admin.describe_consumer_groups(ids, request_timeout=ANSWER)
        members = {id.removeprefix(prefix): len(told.result().members) for id, told in described.items()}
        heard: dict[str, set[str]] = {}
        for id in ids:  # Kafka takes one group a question
            asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(id)], request_timeout=ANSWER)
            heard[id.removeprefix(prefix)] = {each.topic for each in asked[id].result().topic_partitions or ()}
        return members, heard


SPECS = (OFFSET_SPEC_EARLIEST, OFFSET_SPEC_LATEST, OFFSET_SPEC_MAX_TIMESTAMP)


def _copies(topic: Any) -> Copies:
    return described([(each.leader, len(each.replicas), len(each.isrs)) for each in topic.partitions.values()])


def _configs(admin: AdminClient, kind: Any, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The settings of brokers or topics. What the user may not see is missing."""
    resources = [ConfigResource(kind, name) for name in names]
    if not resources:
        return {}
    asked = admin.describe_configs(resources, request_timeout=ANSWER)
    found: dict[str, dict[str, str]] = {}
    for resource in resources:
        try:
            told = asked[resource].result()
        except KafkaException as error:
            if error.args[0].code() not in SECRET:
                raise
            told = {}
        found[resource.name] = {name: each.value for name, each in told.items() if each.value is not None}
    return found


def _offsets(
    admin: AdminClient, partitions: Mapping[str, Sequence[int]], spec: int
) -> dict[str, list[tuple[int, float]]]:
    """An offset and a time (milliseconds, or less than 0) of each partition."""
    places = {
        TopicPartition(name, each): cast(Any, OffsetSpec)(spec) for name in partitions for each in partitions[name]
    }
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in partitions}
    if places:
        for place, told in admin.list_offsets(places, request_timeout=ANSWER).items():
            result = told.result()
            found[place.topic].append((result.offset, result.timestamp))
    return found
