"""The port of a server that moves records but lacks some of what a Broker promises; `linked.py` makes it whole.

An adapter of such a server is one file in `brokers/`. It keeps records, gives every part of the keys to one member of a
group at a time, in order, and remembers what was done. Holding back what failed, delays, suspects, and the inbox and
outbox of a store are supplied once, by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tidings.broker import Delivery, Feature, Lag, Record, Start


@runtime_checkable
class Line(Protocol):
    """One consumer of a group, or a view that remembers nothing. One task fetches, others settle."""

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """At most `limit` records that are out with nobody; waits at most `wait` seconds for the first.

        The records of a key come in publish order, and the part of the keys that holds it belongs to one member at a
        time. `attempt` is 1 at first; it counts, durably and before this returns, how often a record was out with a
        member that died. `receipt` is unique in this line. When a part has to go to another member, none of it is
        lent any more and it stays until what is out of it is settled, or until a deadline; where that passed, or the
        part was lost at once, this raises Fenced, once: then all that was out means nothing, and what this member
        still owns of it comes again. Nothing is lost by cancelling. Raises Closed, and a BrokerError while the server
        cannot be reached: call again, it reconnects by itself.
        """
        ...

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """On return never lent to this group again, whatever dies. Any order; twice, or after Fenced, is harmless.

        Raises Fenced, or a BrokerError where it may not have been kept: call again.
        """
        ...

    async def close(self) -> None:
        """Leave: what is out goes to another member at once. Idempotent; a fetch that waits raises Closed."""
        ...


@runtime_checkable
class Link(Protocol):
    """A connection to such a server. Safe for the tasks of one event loop."""

    features: Feature
    limit: int | None
    """The largest body that the server takes, in bytes, once open; None where there is none."""

    async def open(self) -> None:
        """Connect. Raises a BrokerError that says what to do: wrong password, TLS, missing rights, too old, absent."""
        ...

    async def close(self) -> None:
        """Close every line, wait for what is being published, disconnect. Idempotent."""
        ...

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """Topic and groups exist, and a group gets all that is published from here on. Idempotent."""
        ...

    async def publish(self, records: Sequence[Record]) -> None:
        """On return all are as durable as the server gets; order within a key is kept. `due` is never set.

        Raises PublishFailed, whose `unsent` names those that may not be kept. Publishing these again is safe.
        """
        ...

    async def join(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> Line:
        """A member of `group` on these topics, declared as needed; None is a view of every record from `start`."""
        ...

    async def lag(self, topic: str, group: str) -> Lag:
        """How far `group` is behind on `topic`. Unknown is None."""
        ...

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """Move `group` on `topic`, its members get Fenced. Raises a BrokerError where there is none, or no REPLAY."""
        ...
