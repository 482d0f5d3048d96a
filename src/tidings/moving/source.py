"""The file whose events move: what it holds, what its groups have done, and its fence."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tidings.broker import Record
from tidings.clock import Clock
from tidings.embedded import fence, membership, steady
from tidings.embedded.catalog import UNSETTLED, Catalog
from tidings.embedded.checksum import headers_of
from tidings.embedded.database import READ_ERRORS, Connection, Database, named
from tidings.embedded.feed import Rows, some
from tidings.embedded.membership import Lent, Process
from tidings.embedded.writer import Writer, no_rows
from tidings.errors import ConfigError, StorageError

USER_TABLES = """SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'tidings\\_%' ESCAPE '\\'
    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"""
LOG = """SELECT l.pos, t.name, l.key, l.type, l.id, l.time, l.headers, l.body FROM tidings_log l NOT INDEXED
    JOIN tidings_topic t ON t.id = l.topic WHERE l.pos > ? ORDER BY l.pos LIMIT ?"""
ONE = """SELECT l.pos, t.name, l.key, l.type, l.id, l.time, l.headers, l.body FROM tidings_log l
    JOIN tidings_topic t ON t.id = l.topic WHERE l.id = ? AND l.topic = (SELECT id FROM tidings_topic WHERE name = ?)"""
DELAYED = """SELECT d.seq, t.name, d.key, d.type, d.id, d.time, d.headers, d.body, d.due FROM tidings_delay d
    JOIN tidings_topic t ON t.id = d.topic ORDER BY d.due, d.seq"""
POSTPONED = """SELECT count(*) FROM tidings_delay WHERE id = ?
    AND topic = (SELECT id FROM tidings_topic WHERE name = ?)"""
FEEDS = """SELECT f.id, g.name, t.name, f.topic, m.pos, coalesce(m.ready, 0)
    FROM tidings_feed f JOIN tidings_group g ON g.id = f.grp JOIN tidings_topic t ON t.id = f.topic
    LEFT JOIN tidings_move_feed m ON m.feed = f.id ORDER BY f.id"""
JOINED = """FROM tidings_log l {index} JOIN tidings_position p ON p.feed = :feed AND p.part = l.part
    LEFT JOIN tidings_ack a ON a.feed = :feed AND a.pos = l.pos WHERE l.topic = :topic AND l.pos > :low"""
FIRST_OPEN = f"SELECT min(l.pos) {JOINED.format(index='NOT INDEXED')} AND l.pos <= :upto AND {UNSETTLED}"
DONE = f"SELECT l.id {JOINED.format(index='')} AND l.pos <= :upto AND NOT {UNSETTLED}"
TRIED = """SELECT l.id, a.state, a.tries, a.due FROM tidings_ack a JOIN tidings_log l ON l.pos = a.pos
    WHERE a.feed = ? AND a.state != 0 AND (a.tries > 0 OR a.due > 0)"""
HAS_ROWS = "SELECT count(*) FROM sqlite_master WHERE name = 'tidings_row'"
SPAN = "SELECT count(*), coalesce(max(pos), 0) FROM tidings_log"
COUNTS = """SELECT t.name, count(l.pos) FROM tidings_topic t LEFT JOIN tidings_log l INDEXED BY tidings_log_topic
    ON l.topic = t.id GROUP BY t.id ORDER BY t.name"""
NEWEST = (1 << 63) - 1
LOOK = 0.02
LEASE = 60.0
"""Seconds between two looks whether workers have finished; for how long they are asked to, at most."""
KNOWN = "UPDATE tidings_move_feed SET pos = ? WHERE feed = ? AND pos = ?"
BEGINS = "INSERT OR IGNORE INTO tidings_move_feed (feed, pos, ready) VALUES (?, ?, 0)"
READY = "UPDATE tidings_move_feed SET ready = 1 WHERE feed = ? AND pos = ?"
FROM_THE_START = "INSERT OR REPLACE INTO tidings_move_feed (feed, pos, ready) VALUES (?, 0, 1)"


class Row(NamedTuple):
    """A record of the log and its position."""

    pos: int
    record: Record


class Feed(NamedTuple):
    """A group on a topic. `begun` is the position behind which it begins at the target, -1 where it went back since.

    `ready` says that it has begun there: only then is anything behind that position published. From then on the
    position may move on to where everything that the group has done is known at the target.
    """

    id: int
    group: str
    topic: str
    topic_id: int
    begun: int | None
    ready: bool


class Source:
    """The file, for one move at a time. Raises ConfigError where it cannot be moved."""

    def __init__(self, path: Path, clock: Clock) -> None:
        if not path.is_file():
            raise ConfigError(f"There is no database at {path}: name the file that the app runs on, sqlite:PATH.")
        try:
            with Catalog(path) as there:
                self.user_tables = [name for (name,) in there.read(USER_TABLES)]
        except StorageError as error:
            raise ConfigError(str(error)) from error
        self.path = path
        self.clock = clock
        self.database = Database(path)
        self.process = Process(clock.id())
        self._undo = contextlib.ExitStack()

    async def open(self) -> None:
        """Open it. Raises ConfigError while another move of it runs."""
        self.database.open()
        self._undo.callback(self.database.close)
        lock = os.open(self.database.side(".moving"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._undo.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"Another move of {self.path} is running; wait for it, or stop it first.") from error
        self.reader = self.database.connect()
        self._undo.callback(self.reader.close)
        self.steady = steady.time_of(self.reader, self.clock, membership.boot())
        self.lent = Lent(self.database.side(".lent"))
        self._undo.callback(self.lent.close)
        self._writer = Writer(self.database, no_rows, lambda: None)

    async def close(self) -> None:
        """Let go of it."""
        if hasattr(self, "_writer"):
            await self._writer.close()
        self._undo.close()

    async def run(self, step: Callable[[Connection], Any]) -> Any:
        """Run a step in one transaction."""
        return await self._writer.run(step)

    def read(self, sql: str, values: Any = (), rows: Rows = sqlite3.Cursor.fetchall) -> list[Any]:
        """One short SELECT."""
        try:
            return rows(self.reader.execute(sql, values))
        except READ_ERRORS as error:
            raise named(error, self.path) from error

    # -- what it holds

    def span(self) -> tuple[int, int]:
        """How many records there are, and the newest's position."""
        count, newest = self.read(SPAN)[0]
        return count, newest

    def topics(self) -> list[str]:
        """The names of the topics."""
        return [name for (name,) in self.read("SELECT name FROM tidings_topic ORDER BY name")]

    def counts(self) -> dict[str, int]:
        """How many records each topic has."""
        return dict(self.read(COUNTS))

    def rows(self, behind: int, limit: int) -> list[Row]:
        """The next records of the log, fewer where they are large."""
        return [self._row(row) for row in self.read(LOG, (behind, limit), some)]

    def find(self, topic: str, id: str) -> Row | None:
        """A record by its id."""
        found = self.read(ONE, (id, topic))
        return self._row(found[0]) if found else None

    def postponed(self, topic: str, id: str) -> bool:
        """Whether a record waits for its time."""
        return self.read(POSTPONED, (id, topic)) != [(0,)]

    def delayed(self) -> list[Record]:
        """What is not yet due."""
        return [
            Record(topic, body, key, type, id, time, headers_of(headers, seq, self.path), due)
            for seq, topic, key, type, id, time, headers, body, due in self.read(DELAYED)
        ]

    def _row(self, row: Any) -> Row:
        pos, topic, key, type, id, time, headers, body = row
        return Row(pos, Record(topic, body, key, type, id, time, headers_of(headers, pos, self.path)))

    # -- what its groups have done

    def feeds(self) -> list[Feed]:
        """Every group on every topic that it hears."""
        return [Feed(*row) for row in self.read(FEEDS)]

    def first_open(self, feed: Feed, low: int, upto: int) -> int | None:
        """The first position in (low, upto] that the group has not settled."""
        values = {"feed": feed.id, "topic": feed.topic_id, "low": low, "upto": upto}
        first: int | None = self.read(FIRST_OPEN, values)[0][0]
        return first

    def done(self, connection: Connection, feed: Feed, upto: int = NEWEST) -> Iterator[str]:
        """The ids that the group has settled behind where it begins at the target, up to a position."""
        values = {"feed": feed.id, "topic": feed.topic_id, "low": feed.begun or 0, "upto": upto}
        for (id,) in connection.execute(DONE, values):
            yield id

    def tried(self, connection: Connection, feed: Feed) -> Iterator[tuple[str, int, int, float]]:
        """The ids that the group has tried in vain: their state, how often, and when they are due by the epoch."""
        ahead = self.clock.now() - self.steady()
        for id, state, tries, due in connection.execute(TRIED, (feed.id,)):
            yield id, state, tries, due + ahead if due else 0.0

    def table_rows(self) -> Iterator[tuple[str, bytes, bytes, int]]:
        """The rows of Tables: table, key, value and stamp."""
        if self.read(HAS_ROWS) != [(0,)]:
            for table, key, value, stamp in self.reader.execute("SELECT tbl, key, value, stamp FROM tidings_row"):
                yield table, key.encode(), value, stamp

    async def begins(self, feed: Feed, pos: int) -> None:
        """Remember behind which position the group is to begin at the target; unless it went back meanwhile."""
        await self.run(lambda connection: connection.execute(BEGINS, (feed.id, pos)))

    async def has_begun(self, feed: Feed, pos: int) -> None:
        """Remember that it has begun there."""
        await self.run(lambda connection: connection.execute(READY, (feed.id, pos)))

    async def begins_anew(self, feed: Feed) -> None:
        """Remember that it has begun at the start of the topic."""
        await self.run(lambda connection: connection.execute(FROM_THE_START, (feed.id,)))

    @staticmethod
    def known(connection: Connection, feed: Feed, upto: int) -> None:
        """In a transaction: what the group has done up to here is known there; unless it went back meanwhile."""
        connection.execute(KNOWN, (upto, feed.id, feed.begun))

    # -- the move

    def state(self) -> tuple[str, bool] | None:
        """Where it moves to, and whether that is final; None where it stays."""
        return fence.state(self.reader)

    async def drain(self, grace: float) -> bool:
        """Have all workers finish what they have and take no more; whether they did within `grace` seconds."""
        lease = self.clock.monotonic() + grace + LEASE
        await self.run(lambda connection: fence.drain(connection, self.process, lease))
        until = self.clock.monotonic() + grace
        while fence.busy(self.reader):
            if self.clock.monotonic() > until:
                return False
            await self.clock.sleep(LOOK)
        return True

    async def undrain(self) -> None:
        """The workers may go on."""
        await self.run(lambda connection: fence.undrain(connection, self.process))

    async def fence(self, told: str) -> None:
        """Nothing is published or settled in the file from now on."""
        await self.run(lambda connection: fence.raise_(connection, self.lent, self.clock, told=told))
