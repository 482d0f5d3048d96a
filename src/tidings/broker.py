"""The broker port: what moves records. An adapter is one file in `brokers/` and passes `testing/contract.py`.

Twelve methods, none optional. What a broker lacks is supplied once by the engine or refused at start.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from tidings.store import Unit


class Feature(enum.Flag):
    """What a broker promises."""

    DURABLE = enum.auto()
    """What was published survives the death of every process and of the machine."""
    ORDERED = enum.auto()
    """The records of a key come in publish order, and none while an earlier one is out or held back."""
    REPLAY = enum.auto()
    """A group can go back to what it has handled."""
    DELAY = enum.auto()
    """A record with `due` and a `nack` with a delay come when they are due."""
    ATOMIC = enum.auto()
    """`publish` and `ack` can join a transaction of the store on the same database."""
    UNIQUE = enum.auto()
    """Publishing an id to a topic again changes nothing, for as long as the topic (or the server's window) is kept."""


class Start(enum.Enum):
    """Where a new group or view begins."""

    EARLIEST = "earliest"
    LATEST = "latest"


class Record(msgspec.Struct, frozen=True, gc=False):
    """What is published: bytes under a topic, with the attributes of CloudEvents 1.0.

    `key` is the unit of order, None for none. `time` and `due` are seconds since the epoch; a record with `due` is
    delivered to nobody before. Where UNIQUE, publishing the same `id` to the same topic twice keeps it once. `headers`
    hold the other attributes (source, correlationid, traceparent, ...) as text.
    """

    topic: str
    value: bytes
    key: str | None = None
    type: str = ""
    id: str = ""
    time: float = 0.0
    headers: Mapping[str, str] = {}
    due: float | None = None


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """What is received: a record, lent until it is settled.

    `attempt` is 1 at first and counts how often the record was lent, durably and before it is handled.
    `receipt` belongs to the subscription.
    """

    record: Record
    attempt: int
    receipt: int


class Lag(msgspec.Struct, frozen=True):
    """How far a group is behind: records not acknowledged, and the age of the oldest in seconds. Unknown is None."""

    waiting: int | None
    oldest: float | None

    @property
    def suspected(self) -> int:
        """How many wait; one where that is unknown, for who must not take what is unknown for nothing."""
        return 1 if self.waiting is None else self.waiting


@runtime_checkable
class Subscription(Protocol):
    """One consumer of a group (or a private view, which remembers nothing)."""

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Lend at most `limit` records; wait at most `wait` seconds for the first.

        A record is with one member at a time. Unsettled when its lease ends or the subscription closes, it is lent
        again: at least once. After a member died, what it held comes with nothing else beside it, a few together; what
        was out when a second one died, one at a time: a record which kills is found out by its attempts. Raises Closed.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """On return these are never lent to this group again. Any order; twice is harmless.

        With `tx` it happens when that commits, and the sequence is read then. Raises Fenced: all of `tx` is undone.
        """
        ...

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Lend these again with attempt + 1, not before `delay` seconds.

        Where ORDERED, later records of the same key that are lent to this member are withdrawn: they come again after
        it, with their attempt unchanged, and settling them means nothing. There is no reject: giving up is publishing
        to the dead letter topic and acknowledging.
        """
        ...

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """Keep these for `lease` more seconds; nothing where there are no leases on records."""
        ...

    async def close(self) -> None:
        """Leave the group; what is unsettled goes to another member at once, its attempt not counted. Idempotent."""
        ...


@runtime_checkable
class Broker(Protocol):
    """A connection to a broker. Safe for the tasks of one event loop."""

    features: Feature

    async def open(self) -> None:
        """Connect. Raises a BrokerError that says what to do."""
        ...

    async def close(self) -> None:
        """Close subscriptions, wait for what is being published, disconnect. Idempotent."""
        ...

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """Topic and groups exist. Idempotent; `start` (or a time) is only for groups that are new.

        A group gets all that is published from here on, subscribed or not.
        """
        ...

    async def publish(self, records: Sequence[Record], tx: Unit | None = None) -> None:
        """On return all are as durable as the broker gets. Order within a key is kept.

        With `tx` they appear when that commits, and the sequence is read then. Raises PublishFailed, whose `unsent`
        names those that may not be kept, or a StorageError when none is; InvalidEvent for a body over the broker's
        limit and for attributes that are no text (lone surrogates), of which none is kept either.
        """
        ...

    async def subscribe(
        self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST
    ) -> Subscription:
        """Join `group` on these topics (declared as needed); None is a private view of every record from `start`."""
        ...

    async def lag(self, topic: str, group: str) -> Lag:
        """How far `group` is behind on `topic`."""
        ...

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """Move `group` on `topic` to the start, the end or a time. What it holds just now is fenced."""
        ...
