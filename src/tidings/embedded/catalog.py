"""What a database file holds, read without writing to it: for whoever looks on from outside while workers work.

Each question is one short SELECT, so that no checkpoint has to wait for somebody who looks. The connection is
read-only: it takes no lock that a worker could miss, buries no member and moves no position.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import msgspec

from tidings.broker import Lag, Record, Start
from tidings.embedded import backlog, membership
from tidings.embedded.checksum import Altered, altered
from tidings.embedded.database import APPLICATION_ID, FORMAT, READ_ERRORS, Connection, named
from tidings.embedded.membership import Process
from tidings.errors import StorageError, StorageForeign, StorageTooNew
from tidings.survey import Topic

TOPICS = """SELECT t.name, coalesce(c.events, 0), f.time, l.time,
        (SELECT count(*) FROM tidings_delay d WHERE d.topic = t.id), t.id
    FROM tidings_topic t
    LEFT JOIN (SELECT topic, count(*) AS events, min(pos) AS first, max(pos) AS last
        FROM tidings_log INDEXED BY tidings_log_topic GROUP BY topic) c ON c.topic = t.id
    LEFT JOIN tidings_log f ON f.pos = c.first LEFT JOIN tidings_log l ON l.pos = c.last ORDER BY t.name"""
SIZES = "SELECT topic, sum(length(body) + length(headers)) FROM tidings_log GROUP BY topic"
CHEAP = 100_000  # events: more are not read for their sizes
FEEDS = """SELECT g.name, t.name FROM tidings_feed f JOIN tidings_group g ON g.id = f.grp
    JOIN tidings_topic t ON t.id = f.topic ORDER BY g.name, t.name"""
MEMBERS = """SELECT m.id, g.name, m.process, m.lease FROM tidings_member m JOIN tidings_group g ON g.id = m.grp
    ORDER BY m.id"""
EXCEPTIONS = """SELECT g.name, a.state, count(*), count(DISTINCT a.key) FROM tidings_ack a
    JOIN tidings_feed f ON f.id = a.feed JOIN tidings_group g ON g.id = f.grp GROUP BY g.name, a.state"""
HEAD = "SELECT coalesce(max(pos), 0) FROM tidings_log"
ARRIVED = """SELECT t.name, count(*) FROM tidings_log l NOT INDEXED JOIN tidings_topic t ON t.id = l.topic
    WHERE l.pos > ? GROUP BY t.name"""
FEED = """SELECT f.id, f.topic, min(p.pos),
        (SELECT min(a.pos) - 1 FROM tidings_ack a WHERE a.feed = f.id AND a.state != 0)
    FROM tidings_feed f JOIN tidings_position p ON p.feed = f.id
    WHERE f.topic = (SELECT id FROM tidings_topic WHERE name = ?)
    AND f.grp = (SELECT id FROM tidings_group WHERE name = ?)"""
JOINED = """FROM tidings_log l INDEXED BY tidings_log_topic
    JOIN tidings_position p ON p.feed = :feed AND p.part = l.part
    LEFT JOIN tidings_ack a ON a.feed = :feed AND a.pos = l.pos"""
UNSETTLED = "((a.state IS NULL AND l.pos > p.pos) OR coalesce(a.state, 0) != 0)"
OPEN = f"""SELECT l.pos, l.id, l.type, l.key, l.time, l.headers, l.body {JOINED}
    WHERE l.topic = :topic AND l.pos > :low AND {UNSETTLED} ORDER BY l.pos LIMIT :limit"""
MOVED = f"""SELECT count(*) FILTER (WHERE l.pos >= :first AND NOT {UNSETTLED}),
    count(*) FILTER (WHERE l.pos < :first AND {UNSETTLED}) {JOINED} WHERE l.topic = :topic"""
FIRST_SINCE = """SELECT pos FROM tidings_log INDEXED BY tidings_log_topic
    WHERE topic = ? AND time >= ? ORDER BY pos LIMIT 1"""
PAGE = 500


class Pages(NamedTuple):
    """The pages of the file; `size` of each in bytes."""

    size: int
    total: int
    free: int


class Member(NamedTuple):
    """A member of a group, `pid` on its machine; dead where its process is gone or its lease has run out."""

    id: int
    group: str
    pid: int
    dead: bool


class Exceptions(NamedTuple):
    """The records of a group that are not settled in the order of the log, and how many keys wait behind them."""

    retrying: int = 0
    waiting: int = 0
    lent: int = 0
    suspect: int = 0
    held_keys: int = 0


class Move(NamedTuple):
    """What moving a group does: how many records come again, and how many are never handled."""

    again: int
    skipped: int


class Catalog:
    """A database file, open to be read. Raises a StorageError that says what is wrong with the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise StorageError(f"There is no database at {path}. It is made when an app starts or publishes there.")
        try:
            self.connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, factory=Connection
            )
        except READ_ERRORS as error:
            raise named(error, path) from error
        try:
            self._check()
        except BaseException:
            self.connection.close()
            raise

    def _check(self) -> None:
        self.read("PRAGMA busy_timeout=5000")
        (owner,), (version,) = self.read("PRAGMA application_id")[0], self.read("PRAGMA user_version")[0]
        if self.read("PRAGMA page_count") == [(0,)]:
            raise StorageError(f"{self.path} is empty; it becomes a database when an app starts or publishes there.")
        if owner != APPLICATION_ID:
            raise StorageForeign(f"{self.path} is not a database of tidings; choose another file.")
        if version > FORMAT:
            raise StorageTooNew(f"{self.path} has format {version}; this tidings knows {FORMAT}. Update tidings.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def read(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """One short SELECT."""
        try:
            return self.connection.execute(sql, values).fetchall()
        except READ_ERRORS as error:
            raise named(error, self.path) from error

    # -- the file

    def pages(self) -> Pages:
        """How large the file is."""
        (size,), (total,), (free,) = (
            self.read(f"PRAGMA {name}")[0] for name in ("page_size", "page_count", "freelist_count")
        )
        return Pages(size, total, free)

    def damage(self, *, full: bool) -> list[str]:
        """What SQLite finds wrong with the file, empty where it is whole; `full` also compares indexes with tables.

        Reads the whole file in one transaction, in which no checkpoint can shrink the WAL.
        """
        found = [row[0] for row in self.read(f"PRAGMA {'integrity_check' if full else 'quick_check'}(20)")]
        return [] if found == ["ok"] else [line for text in found for line in text.splitlines() if line[:3] != "***"]

    def altered(self) -> list[Altered]:
        """The records that are not what was published. Reads all of them, in short transactions."""
        try:
            return list(altered(self.connection))
        except READ_ERRORS as error:
            raise named(error, self.path) from error

    # -- what there is

    def topics(self) -> list[Topic]:
        """Every topic, by name."""
        rows = self.read(TOPICS)
        cheap = sum(row[1] for row in rows) <= CHEAP
        sizes = dict(self.read(SIZES)) if cheap else {}
        groups: dict[str, list[str]] = {}
        for group, topic in self.read(FEEDS):
            groups.setdefault(topic, []).append(group)
        return [
            Topic(name, events, first, last, delayed, sizes.get(id, 0) if cheap else None, groups.get(name, []))
            for name, events, first, last, delayed, id in rows
        ]

    def topic_names(self) -> list[str]:
        """Every topic's name: quicker than `topics`."""
        return [name for (name,) in self.read("SELECT name FROM tidings_topic ORDER BY name")]

    def groups(self) -> dict[str, list[str]]:
        """Every group with its topics, by name."""
        groups: dict[str, list[str]] = {}
        for group, topic in self.read(FEEDS):
            groups.setdefault(group, []).append(topic)
        return groups

    def members(self, now: float) -> list[Member]:
        """Who has joined which group; `now` by the monotonic clock, which leases are kept in."""
        return [
            Member(id, group, int(process.split("/")[1]), lease < now or Process.dead(process))
            for id, group, process, lease in self.read(MEMBERS)
        ]

    def exceptions(self) -> dict[str, Exceptions]:
        """By group, what is retried, held back or suspected of killing its worker."""
        found: dict[str, Exceptions] = {}
        fields = {membership.RETRY: "retrying", membership.HELD: "waiting", membership.LENT: "lent",
                  membership.SUSPECT: "suspect"}  # fmt: skip
        for group, state, count, keys in self.read(EXCEPTIONS):
            if state not in fields:
                continue
            counts = {fields[state]: count} | ({"held_keys": keys} if state == membership.HELD else {})
            found[group] = found.get(group, Exceptions())._replace(**counts)
        return found

    # -- how it moves

    def lag(self, topic: str, group: str, now: float) -> Lag:
        """See Broker.lag."""
        try:
            return backlog.lag(self.connection, topic, group, now)
        except READ_ERRORS as error:
            raise named(error, self.path) from error

    def head(self) -> int:
        """The position of the newest record."""
        return int(self.read(HEAD)[0][0])

    def arrived(self, since: int) -> dict[str, int]:
        """How many records each topic got after a position."""
        return dict(self.read(ARRIVED, (since,)))

    def move(self, topic: str, group: str, to: Start | float) -> Move:
        """What `Broker.seek` would do just now."""
        feed, topic_id, _, _ = self._feed(topic, group)
        if to is Start.EARLIEST:
            first = 0
        else:
            found = [] if to is Start.LATEST else self.read(FIRST_SINCE, (topic_id, to))
            first = found[0][0] if found else self.head() + 1
        return Move(*self.read(MOVED, {"feed": feed, "topic": topic_id, "first": first})[0])

    def unsettled(self, topic: str, group: str) -> Iterator[Record]:
        """The records that the group has not settled, in the order of the log."""
        feed, topic_id, low, excepted = self._feed(topic, group)
        low = low if excepted is None else min(low, excepted)
        while True:
            rows = self.read(OPEN, {"feed": feed, "topic": topic_id, "low": low, "limit": PAGE})
            for _, id, type, key, time, headers, body in rows:
                yield Record(topic, body, key, type, id, time, msgspec.json.decode(headers, type=dict[str, str]))
            if len(rows) < PAGE:
                return
            low = rows[-1][0]

    def _feed(self, topic: str, group: str) -> Any:
        row = self.read(FEED, (topic, group))[0]
        if row[0] is None:
            raise StorageError(f"There is no group {group} on topic {topic}; `tidings groups --all` lists them.")
        return row
