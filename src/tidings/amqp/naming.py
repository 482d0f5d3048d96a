"""How exchanges and queues are called, and with which settings they are made."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote
from zlib import crc32

from tidings.amqp.address import SLOTS
from tidings.errors import BrokerError

LONGEST = 255
ALL = "#"
MARK = "parts"
WITH_ENDLESS_LIMIT = (4, 0)
SMALLER_SINCE = (4, 0)
LARGEST, SMALLER = 128 << 20, 16 << 20
"""The largest message of RabbitMQ, by default: before version 4, and since."""


class Place(NamedTuple):
    """A group on a topic: the names of what belongs to it."""

    topic: str
    exchange: str
    parts: int
    name: str

    @property
    def mark(self) -> str:
        """The exchange that says how many parts there are: nothing is published to it."""
        return f"{self.name}:{MARK}"

    def queue(self, part: int) -> str:
        """What holds the records of a part."""
        return f"{self.name}:{part}"

    def book(self, part: int) -> str:
        """What holds who has a part, and what is known of records whose member died."""
        return f"{self.name}:{part}:book"

    def lock(self, part: int) -> str:
        """The exclusive queue of the member that has a part; others find it there."""
        return f"{self.name}:{part}:member"


def exchange(prefix: str, topic: str) -> str:
    """The exchange of a topic. Raises BrokerError for a name that is too long."""
    return _checked(f"{prefix}.{quote(topic, safe='')}", topic)


def place(prefix: str, topic: str, group: str, parts: int) -> Place:
    """The names of a group on a topic. Raises BrokerError for one that is too long."""
    at = exchange(prefix, topic)
    named = Place(topic, at, parts, f"{at}:{quote(group, safe='')}")
    _checked(named.lock(SLOTS), f"{topic} and {group}")
    return named


def _checked(name: str, of: str) -> str:
    if len(name) > LONGEST:
        raise BrokerError(
            f"RabbitMQ takes names of {LONGEST} bytes; that of {of[:60]!r} has {len(name)}: take a shorter one"
        )
    return name


def slot(key: str) -> int:
    """The routing key of a record with this key, as a number."""
    return crc32(key.encode()) % SLOTS


def largest(version: tuple[int, ...]) -> int:
    """The largest message of a server of this version, in bytes, by default."""
    return SMALLER if version >= SMALLER_SINCE else LARGEST


def queue_settings(version: tuple[int, ...]) -> dict[str, Any]:
    """For what holds records: what is full refuses, and the broker never gives up on a record by itself."""
    told: dict[str, Any] = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
    return told | ({"x-delivery-limit": -1} if version >= WITH_ENDLESS_LIMIT else {})


def book_settings(version: tuple[int, ...]) -> dict[str, Any]:
    """For what holds one message, the last."""
    return queue_settings(version) | {"x-overflow": "drop-head", "x-max-length": 1}
