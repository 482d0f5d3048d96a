"""librdkafka's mock cluster: the protocol of Kafka in this process, in memory, with brokers that fail as told.

It runs groups, transactions and idempotent producers, and is not Kafka: what it says of durability is nothing, and each
partition keeps at most 5 MiB. Kafka itself is `tidings.dev.Kafka`.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tidings.errors import BrokerError, ConfigError

PRODUCER = 0
TEXT = 512

_P, _S, _I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "rd_kafka_conf_new": (_P, []),
    "rd_kafka_new": (_P, [_I, _P, _S, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_P]),
    "rd_kafka_mock_cluster_new": (_P, [_P, _I]),
    "rd_kafka_mock_cluster_destroy": (None, [_P]),
    "rd_kafka_mock_cluster_bootstraps": (_S, [_P]),
    "rd_kafka_mock_topic_create": (_I, [_P, _S, _I, _I]),
    "rd_kafka_mock_partition_set_leader": (_I, [_P, _S, ctypes.c_int32, ctypes.c_int32]),
    "rd_kafka_mock_coordinator_set": (_I, [_P, _S, _S, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_down": (_I, [_P, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (_I, [_P, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_rtt": (_I, [_P, ctypes.c_int32, _I]),
    "rd_kafka_mock_push_request_errors_array": (None, [_P, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(_I)]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_P, ctypes.c_int32]),
    "rd_kafka_err2str": (_S, [_I]),
}


class MockKafka:
    """A mock cluster of `brokers` brokers, numbered from 1. Raises ConfigError without confluent-kafka."""

    def __init__(self, brokers: int = 3) -> None:
        self._library = _load()
        text = ctypes.create_string_buffer(TEXT)
        self._client = self._library.rd_kafka_new(PRODUCER, self._library.rd_kafka_conf_new(), text, TEXT)
        if not self._client:
            raise BrokerError(f"librdkafka: {text.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.url = f"kafka://{self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()}"

    def create(self, topic: str, partitions: int = 1, replicas: int = 1) -> None:
        """Make a topic."""
        self._do("topic_create", topic.encode(), partitions, replicas)

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Make a broker the leader of a partition; -1 leaves it without one."""
        self._do("partition_set_leader", topic.encode(), partition, broker)

    def coordinate(self, group: str, broker: int) -> None:
        """Make a broker the coordinator of a group."""
        self._do("coordinator_set", b"group", group.encode(), broker)

    def down(self, broker: int) -> None:
        """Cut its connections and refuse new ones; what it holds stays."""
        self._do("broker_set_down", broker)

    def up(self, broker: int) -> None:
        """Let it answer again."""
        self._do("broker_set_up", broker)

    def slow(self, broker: int, seconds: float) -> None:
        """Let each answer of a broker take this long, in seconds; 0 is none."""
        self._do("broker_set_rtt", broker, round(seconds * 1000))

    def fail(self, request: int, errors: Sequence[int]) -> None:
        """Answer the next requests of this kind (its number in Kafka's protocol) with these errors; 0 is none."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(errors), array)

    def close(self) -> None:
        """End it; all that it holds is gone."""
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
            self._cluster = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, name: str, *values: bytes | int) -> None:
        code: int = getattr(self._library, f"rd_kafka_mock_{name}")(self._cluster, *values)
        if code:
            raise BrokerError(f"{name}{values}: {self._library.rd_kafka_err2str(code).decode()}")


def _load() -> ctypes.CDLL:
    """The librdkafka that confluent-kafka brings; loaded once a process, whoever asks."""
    found = importlib.util.find_spec("confluent_kafka")
    places = [
        Path(place).with_name("confluent_kafka.libs") for place in (found and found.submodule_search_locations) or []
    ]
    files = [file for place in places for file in place.glob("librdkafka-*.so*")]
    if not files:
        raise ConfigError("The mock cluster is in confluent-kafka's wheel: pip install confluent-kafka")
    importlib.import_module("confluent_kafka")  # with what librdkafka itself is linked to
    library = ctypes.CDLL(str(files[0]))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
