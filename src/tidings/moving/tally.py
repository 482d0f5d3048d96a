"""What of the file is at the target: every record that is found there is compared with the one that was published."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Protocol

import msgspec

from tidings.binding import JSON, NO_SOURCE
from tidings.broker import Record, Subscription
from tidings.moving.source import Row

MOST = 1000
CLOSE = 2e-6
"""Seconds by which times may differ: CloudEvents tell them in microseconds."""


class Original(Protocol):
    """What is compared with."""

    def find(self, topic: str, id: str) -> Row | None:
        """A record by its id."""
        ...

    def postponed(self, topic: str, id: str) -> bool:
        """Whether a record waits for its time."""
        ...


class Sum(msgspec.Struct):
    """How many records, and a hash over their ids and bodies that does not depend on their order."""

    events: int = 0
    digest: int = 0

    def add(self, record: Record) -> None:
        """One more."""
        hashed = blake2b(record.id.encode() + b"\0" + record.value, digest_size=16).digest()
        self.events += 1
        self.digest = (self.digest + int.from_bytes(hashed)) % (1 << 128)

    @property
    def hash(self) -> str:
        """The hash as text."""
        return f"{self.digest:032x}"


class Tally:
    """Reads views of the target from their start. Knows which positions of the file it has seen there.

    `twice` and `strange` count by topic what is there once more, and what the file does not have.
    """

    def __init__(self, original: Original) -> None:
        self._original = original
        self._views: list[Subscription] = []
        self._seen = bytearray()
        self._latest: dict[tuple[str, str], int] = {}
        self.newest: dict[str, int] = {}
        self.sums: dict[str, Sum] = {}
        self.count = 0
        self.twice: Counter[str] = Counter()
        self.strange: Counter[str] = Counter()
        self.wrong: list[str] = []

    def watch(self, view: Subscription) -> None:
        """Read this one as well."""
        self._views.append(view)

    async def close(self) -> None:
        """Close the views."""
        for view in self._views:
            await view.close()

    async def take(self, wait: float) -> int:
        """Compare what is there now; waits at most `wait` seconds for the first. How many there were."""
        count = 0
        for view in self._views:
            deliveries = await view.fetch(MOST, 0.0 if count else wait)
            for each in deliveries:
                self._note(each.record)
            count += len(deliveries)
        return count

    def has(self, pos: int) -> bool:
        """Whether the record at this position of the file is at the target."""
        return pos >> 3 < len(self._seen) and bool(self._seen[pos >> 3] & 1 << (pos & 7))

    def _note(self, record: Record) -> None:
        found = self._original.find(record.topic, record.id)
        if found is None:
            self.strange[record.topic] += not self._original.postponed(record.topic, record.id)
            return
        if self.has(found.pos):
            self.twice[record.topic] += 1
            return
        self._mark(found.pos)
        self.count += 1
        self.sums.setdefault(record.topic, Sum()).add(record)
        self.newest[record.topic] = max(found.pos, self.newest.get(record.topic, 0))
        if differs := difference(found.record, record):
            self.wrong.append(f"the {differs} of event {record.id} on topic {record.topic}")
        if record.key is not None and not self._follows(record.topic, record.key, found.pos):
            self.wrong.append(f"the order of key {record.key!r} on topic {record.topic}, at event {record.id}")

    def _mark(self, pos: int) -> None:
        if (lacking := (pos >> 3) + 1 - len(self._seen)) > 0:
            self._seen.extend(bytes(lacking + 4096))
        self._seen[pos >> 3] |= 1 << (pos & 7)

    def _follows(self, topic: str, key: str, pos: int) -> bool:
        before = self._latest.get((topic, key), 0)
        self._latest[topic, key] = max(before, pos)
        return pos > before


def difference(one: Record, other: Record) -> str:
    """What differs between two records, empty where nothing does."""
    for name in ("value", "key", "type"):
        if getattr(one, name) != getattr(other, name):
            return "body" if name == "value" else name
    if abs(one.time - other.time) > CLOSE:
        return "time"
    return "" if _told(one) == _told(other) else "headers"


def _told(record: Record) -> dict[str, str]:
    """The headers, without those that say what goes without saying."""
    silent = {"source": NO_SOURCE, "datacontenttype": JSON}
    return {name: text for name, text in record.headers.items() if silent.get(name) != text}
