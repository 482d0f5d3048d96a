"""What each client of librdkafka is told, and what its errors mean in a sentence."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from tidings.errors import BrokerError, ConfigError, Unreachable
from tidings.options import Readers, read, seconds, whole, word

log = logging.getLogger("tidings")

OURS = {
    "group.id": "groups are named by their handlers",
    "enable.auto.commit": "what is done is committed, nothing else",
    "enable.auto.offset.store": "what is done is committed, nothing else",
    "enable.idempotence": "without it a retry could change the order",
    "partition.assignment.strategy": "partitions are handed over one by one (cooperative-sticky)",
    "acks": "what was acknowledged has to be kept: acks=all",
    "bootstrap.servers": "the servers stand in the URL",
}
"""Settings on which the promises rest, and why nobody may change them."""
FORM = "the address of Kafka is kafka://HOST:PORT (several: kafka://A:9092,B:9092)"
OPTIONS: Readers = {
    "lease": seconds, "partitions": whole(1, 100_000), "replication": whole(1, 1000), "prefix": word("-_."),
}  # fmt: skip
"""Ours; all others are for librdkafka."""
PARTITIONS = 12
SIGNED = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}
"""How to sign in where the URL has a user and says no more."""
EVERY = {
    "reconnect.backoff.ms": 2000,
    "reconnect.backoff.max.ms": 2000,
    "socket.keepalive.enable": True,
    "allow.auto.create.topics": False,  # the broker's settings are not ours
    "log_level": 3,
}
PRODUCER = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 0,
    "message.timeout.ms": 30_000,
    "partitioner": "murmur2_random",
    "queue.buffering.max.messages": 100_000,
    "message.max.bytes": 1_000_000_000,  # the topic's limit counts, which the broker knows
}
CONSUMER = {
    # Who joins waits for metadata. When all connections are cut, librdkafka (2.10 and later) begins anew with the
    # servers of the URL, forgets that it has asked, and would wait until it asks anyway: five minutes by default.
    "topic.metadata.refresh.interval.ms": 5000,
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 500,
    "fetch.queue.backoff.ms": 10,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,
}
CLASSIC = {"partition.assignment.strategy": "cooperative-sticky"}

SENTENCES = {
    KafkaError._AUTHENTICATION: "Kafka refused the user or the password; check them, and `sasl.mechanism`",
    KafkaError.SASL_AUTHENTICATION_FAILED: "Kafka refused the user or the password; check them, and `sasl.mechanism`",
    KafkaError.UNSUPPORTED_SASL_MECHANISM: "Kafka does not offer this way to log in; choose another `sasl.mechanism`",
    KafkaError._SSL: "TLS failed; check `security.protocol`, `ssl.ca.location` and the certificates",
    KafkaError._ALL_BROKERS_DOWN: "no Kafka broker answers; check the servers in the URL and `security.protocol`",
    KafkaError._TRANSPORT: "the connection to Kafka failed; check the URL, `security.protocol` and the certificates",
    KafkaError._RESOLVE: "the name of a Kafka broker is not known; check the servers in the URL",
    KafkaError._TIMED_OUT: "Kafka did not answer in time",
    KafkaError._MSG_TIMED_OUT: "Kafka did not take it in time (`message.timeout.ms`)",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user has no right to the topic; an ACL has to grant Read, Write, "
    "Describe, and Create where the topic is new",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this user has no right to the group; an ACL has to grant Read",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "this user has no right to the cluster; an ACL has to grant "
    "IdempotentWrite, and Create for new topics",
    KafkaError.INVALID_REPLICATION_FACTOR: "there are fewer brokers than replicas are asked for; write ?replication=1",
    KafkaError.INVALID_SESSION_TIMEOUT: "the lease is outside of what Kafka allows; it has to lie between the broker's "
    "group.min.session.timeout.ms (6 s) and group.max.session.timeout.ms",
    KafkaError.MSG_SIZE_TOO_LARGE: "a message is larger than the topic's max.message.bytes",
    KafkaError.TOPIC_EXCEPTION: "Kafka takes only letters, digits, `.`, `_` and `-` in a topic's name, 249 at most",
    KafkaError.UNSUPPORTED_VERSION: "the Kafka broker is too old for this; Kafka 2.4 is needed, 4.0 for "
    "group.protocol=consumer",
    KafkaError._UNSUPPORTED_FEATURE: "the Kafka broker is too old for this; Kafka 2.4 is needed, 4.0 for "
    "group.protocol=consumer",
    KafkaError.NOT_ENOUGH_REPLICAS: "fewer replicas are in sync than min.insync.replicas asks for",
}
SOON = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError._WAIT_COORD,
}
"""What passes by itself: a topic that was just made, a broker that was just started."""


class Settings:
    """What the URL of a cluster says. Raises ConfigError, which does not repeat what is secret."""

    def __init__(self, url: str, lease: float) -> None:
        told = read(url, OPTIONS, port=9092, form=FORM, others=True)
        if told.path:
            raise ConfigError(f"{told.shown}: {FORM}")
        for name in told.others.keys() & OURS.keys():
            raise ConfigError(f"Kafka's option {name!r} cannot be set: {OURS[name]}.")
        self.lease: float = told.options.get("lease", lease)
        self.partitions: int = told.options.get("partitions", PARTITIONS)
        self.replication: int = told.options.get("replication", -1)
        self.prefix: str = told.options.get("prefix", "")
        self.newer = told.others.get("group.protocol") == "consumer"
        self._every: dict[str, Any] = {"bootstrap.servers": ",".join(map(str, told.hosts)), **EVERY, "logger": log}
        if told.user is not None:
            self._every |= SIGNED | {"sasl.username": told.user, "sasl.password": told.password or ""}
        self._given = told.others

    def client(self) -> dict[str, Any]:
        """For one that neither publishes nor consumes."""
        return self._every | self._given

    def producer(self) -> dict[str, Any]:
        """For a producer."""
        return self._every | PRODUCER | self._given

    def consumer(self, group: str) -> dict[str, Any]:
        """For a member of a group, whose heartbeats stop the clock of its lease."""
        milliseconds = int(self.lease * 1000)
        ours: dict[str, Any] = {"group.id": group, "max.poll.interval.ms": 2 * milliseconds}
        if not self.newer:
            beat = max(min(milliseconds // 10, 1000), 1)
            ours |= CLASSIC | {"session.timeout.ms": milliseconds, "heartbeat.interval.ms": beat}
        return self._every | CONSUMER | ours | self._given


def made(make: Any, config: Mapping[str, Any]) -> Any:
    """A client of librdkafka. Raises ConfigError for settings that it does not know."""
    try:
        return make(dict(config))
    except KafkaException as error:
        raise ConfigError(f"Kafka: {error.args[0].str()}.") from error


AWAY = (SOON - {KafkaError.UNKNOWN_TOPIC_OR_PART}) | {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._NOENT,  # no leader of a partition
    KafkaError._DESTROY_BROKER,
}
"""What is over when the servers are there."""


def broker_error(error: KafkaException | KafkaError, about: str) -> BrokerError:
    """The error of ours that says what to do. No password is in it: librdkafka never says one."""
    cause = error if isinstance(error, KafkaError) else error.args[0]
    refused = cause.code() == KafkaError._TRANSPORT and "SSL" in cause.str()  # what a server says after the handshake
    said = SENTENCES.get(KafkaError._SSL if refused else cause.code())
    kind = Unreachable if cause.code() in AWAY else BrokerError
    return kind(f"{about}: {said} ({cause.str()})." if said else f"{about}: {cause.str()}.")
