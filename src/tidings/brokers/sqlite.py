"""The embedded broker: a log, a position per group and part, and rows only for exceptions, in one SQLite file.

A guided tour. `publish` hands rows to the group-commit writer (`embedded/writer.py`), which wakes the readers of every
process after its commit (`embedded/wakeup.py`). A member of a group reads, lends and settles in `embedded/group.py`;
who owns which part of the keys is decided in `embedded/membership.py`; a view (`embedded/view.py`) remembers nothing.
What is here: the tables, publishing, and the housekeeping: leases, delayed records that fall due, retention.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import msgspec

from tidings import failpoint
from tidings.broker import Feature, Lag, Record, Start
from tidings.clock import Clock
from tidings.embedded import backlog, membership, steady
from tidings.embedded.checksum import adapt, checksum, headers_of
from tidings.embedded.database import READ_ERRORS, Connection, Database, create, named
from tidings.embedded.feed import FETCH, Feed, Loan, Rows, Shape, some
from tidings.embedded.group import FIRST, Group
from tidings.embedded.membership import PARTS, Lent, Process
from tidings.embedded.view import View
from tidings.embedded.wakeup import POLL_WITHOUT_INOTIFY, Wakeup
from tidings.embedded.writer import BUSY_WAIT, Writer
from tidings.errors import (
    BodyTooLarge,
    BrokerError,
    Closed,
    InvalidEvent,
    Moved,
    PublishFailed,
    StorageBroken,
    StorageError,
    StorageFull,
)
from tidings.store import Unit

log = logging.getLogger("tidings")

SCHEMA = """
CREATE TABLE IF NOT EXISTS tidings_topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, keep_seconds REAL,
    keep_count INTEGER);
CREATE TABLE IF NOT EXISTS tidings_log (pos INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL,
    part INTEGER NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, key TEXT, time REAL NOT NULL, headers TEXT NOT NULL,
    body BLOB NOT NULL, crc INTEGER);
CREATE INDEX IF NOT EXISTS tidings_log_topic ON tidings_log(topic);
CREATE UNIQUE INDEX IF NOT EXISTS tidings_log_id ON tidings_log(id, topic);
CREATE TABLE IF NOT EXISTS tidings_delay (seq INTEGER PRIMARY KEY AUTOINCREMENT, due REAL NOT NULL,
    topic INTEGER NOT NULL, part INTEGER NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, key TEXT, time REAL NOT NULL,
    headers TEXT NOT NULL, body BLOB NOT NULL, crc INTEGER, UNIQUE (id, topic));
CREATE INDEX IF NOT EXISTS tidings_delay_due ON tidings_delay(due, seq);
CREATE TABLE IF NOT EXISTS tidings_group (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS tidings_feed (id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, topic INTEGER NOT NULL,
    UNIQUE (grp, topic));
CREATE TABLE IF NOT EXISTS tidings_position (feed INTEGER NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL,
    PRIMARY KEY (feed, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tidings_ack (feed INTEGER NOT NULL, pos INTEGER NOT NULL, part INTEGER NOT NULL,
    state INTEGER NOT NULL, tries INTEGER NOT NULL, due REAL NOT NULL, key TEXT, PRIMARY KEY (feed, pos)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tidings_ack_due ON tidings_ack(feed, state, due);
CREATE INDEX IF NOT EXISTS tidings_ack_key ON tidings_ack(feed, key, pos) WHERE key IS NOT NULL;
"""
APPEND_INTO = "INSERT OR IGNORE INTO tidings_log (topic, part, id, type, key, time, headers, body, crc) VALUES "
ROW_BYTES = 700
ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?)"
APPEND = [(count, APPEND_INTO + ", ".join([ROW] * count)) for count in (64, 32, *range(16, 0, -1))]
POSTPONE = """INSERT OR IGNORE INTO tidings_delay (due, topic, part, id, type, key, time, headers, body, crc)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
MOVE_DUE = """INSERT OR IGNORE INTO tidings_log (topic, part, id, type, key, time, headers, body, crc)
    SELECT topic, part, id, type, key, time, headers, body, crc FROM tidings_delay WHERE due <= ?
    ORDER BY due, seq LIMIT 500"""
DROP_DUE = """DELETE FROM tidings_delay WHERE seq IN (
    SELECT seq FROM tidings_delay WHERE due <= ? ORDER BY due, seq LIMIT 500)"""
NEXT_DUE = "SELECT min(due) FROM tidings_delay"
DECLARED = """SELECT t.id, t.keep_seconds, t.keep_count, g.name FROM tidings_topic t
    LEFT JOIN tidings_feed f ON f.topic = t.id LEFT JOIN tidings_group g ON g.id = f.grp WHERE t.name = ?"""
FEED_OF = """SELECT f.id, f.topic, f.grp FROM tidings_feed f JOIN tidings_topic t ON t.id = f.topic
    JOIN tidings_group g ON g.id = f.grp WHERE t.name = ? AND g.name = ?"""
FEEDS_OF = """SELECT f.id, f.topic, t.name FROM tidings_feed f JOIN tidings_topic t ON t.id = f.topic
    WHERE f.grp = ?"""
SLOWEST = """SELECT min(pos) FROM (SELECT min(p.pos) AS pos FROM tidings_position p JOIN tidings_feed f ON f.id = p.feed
        WHERE f.topic = :topic
    UNION ALL SELECT min(a.pos) - 1 FROM tidings_ack a JOIN tidings_feed f ON f.id = a.feed
        WHERE f.topic = :topic AND a.state != 0)"""
EXPIRABLE = """SELECT pos FROM tidings_log INDEXED BY tidings_log_topic
    WHERE topic = :topic AND pos <= :slowest AND pos <= :oldest ORDER BY pos LIMIT 1000"""
EXPIRED = f"DELETE FROM tidings_log WHERE pos IN ({EXPIRABLE})"
FORGET_PASSED = """DELETE FROM tidings_ack WHERE state = 0 AND pos <= (SELECT p.pos FROM tidings_position p
    WHERE p.feed = tidings_ack.feed AND p.part = tidings_ack.part)"""
NEW_TOPIC = "INSERT OR IGNORE INTO tidings_topic (name, keep_seconds) VALUES (?, ?)"
KEEP = "UPDATE tidings_topic SET keep_seconds = ?, keep_count = ? WHERE name = ?"
GROWN = "SELECT topic, max(pos) FROM tidings_log NOT INDEXED WHERE pos > ? GROUP BY topic"
HEAD = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tidings_log'), 0)"
SINCE = f"""SELECT coalesce((SELECT pos - 1 FROM tidings_log INDEXED BY tidings_log_topic
    WHERE topic = ? AND time >= ? ORDER BY pos LIMIT 1), ({HEAD}))"""

READ_ONCE = "PRAGMA cache_size=-8192"
"""Readers go through the log once: memory that is used again at once is faster than memory that is remembered."""
LEASE = 30.0
TICK = 0.5
RETENTION_EVERY = 60.0
KEEP_SECONDS = 7 * 86400.0


class SqliteBroker:
    """The broker in a file. `lease` in seconds: how long a member that is silent keeps its parts.

    `keep` in seconds and `keep_count` say how much of what every group has settled a topic keeps: a week where neither
    is ever said. They are kept with the topics that this broker declares. `limit` in bytes: a larger body is refused,
    unless a transaction publishes it: that must be able to bury what is there.
    """

    features = Feature.DURABLE | Feature.ORDERED | Feature.REPLAY | Feature.DELAY | Feature.ATOMIC | Feature.UNIQUE
    new_process: Callable[[str], Process] = Process  # a simulation has its own

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        lease: float = LEASE,
        keep: float | None = None,
        keep_count: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.database = database
        self.clock = clock
        self.lease = lease
        self._keep = (keep, keep_count)
        self._limit = limit or sys.maxsize
        self.process = self.new_process(clock.id())
        self.topics: dict[str, int] = {}
        self._declared: set[tuple[str, str]] = set()  # topics with their groups, which are never removed
        self._headers: tuple[Mapping[str, str], str] = ({}, "{}")
        self._groups: dict[Group, None] = {}  # in the order in which they came: all runs of a simulation are the same
        self._views: dict[View, None] = {}
        self._spread = 0
        self._seen = 0
        self._stir = asyncio.Event()
        self._open = False
        self._died: BaseException | None = None

    # -- the connection

    async def open(self) -> None:
        """See Broker.open. Raises a StorageError that says what to do."""
        if self._open:
            return
        self.database.open()
        with contextlib.ExitStack() as undo:
            undo.callback(self.database.close)
            try:
                self._open_files(undo)
            except (*READ_ERRORS, OSError) as error:
                raise named(error, self.database.path) from error
            undo.pop_all()
        self._seen = self.read(HEAD)[0][0]
        self._open = True
        self._housekeeper = asyncio.create_task(self._housekeeping(), name="tidings-housekeeping")
        self._housekeeper.add_done_callback(self._ended)

    def _open_files(self, undo: contextlib.ExitStack) -> None:
        self._reader = self.database.connect()
        undo.callback(self._reader.close)
        self.prepare(self._reader)
        self.steady = steady.time_of(self._reader, self.clock, membership.boot())
        self.lent = self.new_lent()
        undo.callback(self.lent.close)
        self._wakeup = self.new_wakeup(self._heard)
        undo.callback(self._wakeup.close)
        self.writer = self.new_writer(self._wakeup.signal)

    def prepare(self, reader: Connection) -> None:
        """Make what is lacking in the file, and let the connection read it; a simulation does that once."""
        create(reader, SCHEMA + membership.SCHEMA + steady.SCHEMA)
        adapt(reader)
        reader.execute(READ_ONCE)

    def new_lent(self) -> Lent:
        """Where it is kept how far is lent; a simulation keeps it open from process to process."""
        return Lent(self.database.side(".lent"))

    def new_wakeup(self, heard: Callable[[], None]) -> Wakeup:
        """How this process hears of commits; a simulation has its own."""
        return Wakeup(self.database.side(".notify"), heard)

    def new_writer(self, committed: Callable[[], None]) -> Writer:
        """What commits for this process; a simulation has its own."""
        return Writer(self.database, self.insert, committed)

    async def close(self) -> None:
        """See Broker.close."""
        if not self._open:
            return
        for group in list(self._groups):
            await group.close()
        self._open = False
        self._wake_all()
        self._housekeeper.cancel()
        await asyncio.wait([self._housekeeper], timeout=BUSY_WAIT)
        await self.writer.close()
        self._wakeup.close()
        self._reader.close()
        self.lent.close()
        self.database.close()

    def read(
        self, sql: str, values: Sequence[Any] | Mapping[str, Any] = (), rows: Rows = sqlite3.Cursor.fetchall
    ) -> list[Any]:
        """One short SELECT. A read transaction is never held across anything else, or the WAL could not be reset."""
        try:
            return rows(self._reader.execute(sql, values))
        except READ_ERRORS as error:
            raise named(error, self.database.path) from error

    async def _page(self, topic: int, after: int, most: int) -> list[Any]:
        return self.read(FETCH.format(parts=""), (*Shape().likely, topic, after, most), some)

    async def run(self, step: Callable[[Connection], Any]) -> Any:
        """Run a step in the writer's next transaction."""
        self.check()
        return await self.writer.run(step)

    def suspicious(self, group: Group) -> bool:
        """Whether another group of this process has suspects out."""
        return any(other.alone for other in self._groups if other is not group)

    def forget(self, reader: Any) -> None:
        """It is closed."""
        if isinstance(reader, Group):
            self._groups.pop(reader, None)
        else:
            self._views.pop(reader, None)

    def check(self) -> None:
        """Raises Closed where the broker is not open, and Moved where it found its events elsewhere."""
        if isinstance(self._died, Moved):
            raise Moved(str(self._died)) from self._died
        if self._died is not None:
            raise StorageBroken(f"the housekeeping of {self.database.path} died; start again") from self._died
        if not self._open:
            raise Closed(f"the broker on {self.database.path} is not open")

    # -- publishing

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Broker.declare."""
        self.check()
        wanted = {(topic, group) for group in groups}
        if topic in self.topics and wanted <= self._declared:
            return
        found = self.read(DECLARED, (topic,))
        known = {name for *_, name in found}
        if found and known.issuperset(groups) and self._keep in ((None, None), found[0][1:3]):
            self.topics[topic] = found[0][0]
        else:
            self.topics[topic] = await self.run(lambda connection: self._declare(connection, topic, groups, start))
        self._declared |= wanted

    def _declare(self, connection: Connection, topic: str, groups: Sequence[str], start: Start | float) -> int:
        connection.execute(NEW_TOPIC, (topic, KEEP_SECONDS))
        if self._keep != (None, None):
            connection.execute(KEEP, (*self._keep, topic))
        (topic_id,) = connection.execute("SELECT id FROM tidings_topic WHERE name = ?", (topic,)).fetchone()
        for name in groups:
            connection.execute("INSERT OR IGNORE INTO tidings_group (name) VALUES (?)", (name,))
            (group,) = connection.execute("SELECT id FROM tidings_group WHERE name = ?", (name,)).fetchone()
            parts = [(group, part) for part in range(PARTS)]
            connection.executemany("INSERT OR IGNORE INTO tidings_part (grp, part) VALUES (?, ?)", parts)
            made = connection.execute(
                "INSERT OR IGNORE INTO tidings_feed (grp, topic) VALUES (?, ?)", (group, topic_id)
            )
            if made.rowcount:
                pos = position(connection, topic_id, start)
                positions = [(made.lastrowid, part, pos) for part in range(PARTS)]
                connection.executemany("INSERT INTO tidings_position (feed, part, pos) VALUES (?, ?, ?)", positions)
        return int(topic_id)

    async def publish(self, records: Sequence[Record], tx: Unit | None = None) -> None:
        """See Broker.publish."""
        self.check()
        if tx is not None:
            made: dict[str, int] = {}
            tx.add(lambda connection: self._publish_in(connection, records, made))
            tx.after(lambda: self.topics.update(made))
            return
        if not records:
            return
        for record in records:
            if len(record.value) > self._limit:
                raise BodyTooLarge(
                    f"A body of {len(record.value)} bytes for topic {record.topic} is over the limit of {self._limit}; "
                    "keep the payload elsewhere and publish a reference, or raise `body_limit`."
                )
            if record.topic not in self.topics:
                await self.declare(record.topic, ())
        failpoint.hit("publishing")
        try:
            if any(record.due is not None for record in records) if len(records) > 1 else records[0].due is not None:
                await self.writer.run(lambda connection: self._publish_in(connection, records, {}))
                self._stir.set()
            else:
                await self.writer.append(records)
        except (StorageFull, StorageBroken, Closed):
            raise
        except StorageError as error:
            raise PublishFailed(str(error), [record.id for record in records]) from error
        except UnicodeError as error:
            raise InvalidEvent(f"An attribute of a record is no text: {error}. Nothing was published.") from error
        failpoint.hit("published")

    def insert(self, connection: Connection, rows: Sequence[Record]) -> int:
        """In the writer's thread: many at a time cost less than one by one where they are published."""
        append(connection, [self._row(record, self.topics) for record in rows])
        return sum([ROW_BYTES + len(record.value) for record in rows])

    def _publish_in(self, connection: Connection, records: Sequence[Record], made: dict[str, int]) -> None:
        """In the writer's thread: records may be delayed, and topics new: known to others once this is committed."""
        now = self.clock.now()
        for record in records:
            if record.topic not in self.topics and record.topic not in made:
                made[record.topic] = self._declare(connection, record.topic, (), Start.LATEST)
        topics = self.topics | made if made else self.topics
        append(connection, [self._row(record, topics) for record in records if record.due is None or record.due <= now])
        if later := [(record.due, *self._row(record, topics)) for record in records if record.due and record.due > now]:
            connection.executemany(POSTPONE, later)

    def _row(self, record: Record, topics: Mapping[str, int]) -> tuple[Any, ...]:
        key = record.key
        if key is None:
            self._spread = part = (self._spread + 1) % PARTS
        else:
            part = zlib.crc32(key.encode()) % PARTS
        headers, text = self._headers
        if record.headers != headers:
            text = msgspec.json.encode(record.headers).decode()
            self._headers = (dict(record.headers), text)
        time = record.time + 0.0  # a float: what is read must have the checksum of what was written
        row = (topics[record.topic], part, record.id, record.type, key, time, text, record.value)
        return (*row, checksum(row))

    # -- consuming

    async def subscribe(
        self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST
    ) -> Group | View:
        """See Broker.subscribe."""
        self.check()
        for topic in topics:
            await self.declare(topic, () if group is None else (group,), start)
        if not (self._groups or self._views):
            self._seen = self.read(HEAD)[0][0]
        if group is None:
            cursors = {name: position(self._reader, self.topics[name], start) for name in topics}
            view = View(self, self.topics, cursors, self._page)
            self._views[view] = None
            return view
        (group_id,) = self.read("SELECT id FROM tidings_group WHERE name = ?", (group,))[0]
        feeds = self.read(FEEDS_OF, (group_id,))
        member = Group(self, group_id, group, [Feed(*feed) for feed in feeds if feed[2] in topics])
        self._groups[member] = None
        try:
            await member.join()
        except BaseException:
            await member.close()  # a member that nobody has would keep its parts for as long as we live
            raise
        return member

    def deliveries(self, topic: str, rows: Sequence[Any], attempts: Sequence[int] | None = None) -> list[Loan]:
        """Rows of the log as what is lent."""
        return self.lend(topic, rows, Shape(), attempts or FIRST)[0]

    def lend(self, topic: str, rows: Sequence[Any], shape: Shape, attempts: Iterable[int]) -> tuple[list[Loan], Shape]:
        """Rows of the log, as FETCH selects them with this shape, as what is lent, and the shape of the last.

        Neighbours often have the same headers: those are decoded once.
        """
        type = likely = shape.type or ""
        text, last = shape.text, shape.headers
        loans = []
        for (pos, part, id, other, key, time, told, body), attempt in zip(rows, attempts, strict=False):
            type = likely if other is None else other
            if told is None:
                headers = shape.headers
            else:
                if told != text:
                    text, last = told, headers_of(told, pos, self.database.path)
                headers = last
            loans.append(Loan(Record(topic, body, key, type, id, time, headers), attempt, pos, part))
        return loans, Shape(type, text, last)

    async def lag(self, topic: str, group: str) -> Lag:
        """See Broker.lag. Counts in a thread of its own: a million waiting records take some tens of milliseconds."""
        self.check()
        return await asyncio.to_thread(self._lag, topic, group)

    def _lag(self, topic: str, group: str) -> Lag:
        connection = self.database.connect()
        try:
            return backlog.lag(connection, topic, group, self.clock.now())
        finally:
            connection.close()

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Broker.seek."""

        def move(connection: Connection) -> None:
            row = connection.execute(FEED_OF, (topic, group)).fetchone()
            if row is None:
                raise BrokerError(f"There is no group {group} on topic {topic}; `tidings groups` lists them.")
            feed, topic_id, group_id = row
            for (member,) in connection.execute(membership.MEMBERS_OF, (group_id,)).fetchall():
                membership.hand_over(connection, member, self.lent, died=False)
            connection.execute(
                "UPDATE tidings_position SET pos = ? WHERE feed = ?", (position(connection, topic_id, to), feed)
            )
            connection.execute("DELETE FROM tidings_ack WHERE feed = ?", (feed,))
            self.lent.write(feed, range(PARTS), 0)

        await self.run(move)
        for member in self._groups:
            member.stale = True
            member.hear()

    # -- housekeeping

    def _wake_all(self) -> None:
        readers: list[Group | View] = [*self._groups, *self._views]
        for reader in readers:
            reader.hear()

    def _heard(self) -> None:
        """Something was committed: wake those who wait for what has grown; the others are to look once more."""
        if not self._open:
            return
        readers: list[Group | View] = [*self._groups, *self._views]
        if not readers:
            return
        waiting = [reader for reader in readers if reader.waiting]
        for reader in readers:
            if not reader.waiting:
                reader.hear()
        if not waiting:
            self._seen = self.read(HEAD)[0][0]
            return
        grown = self.read(GROWN, (self._seen,))
        self._seen = max((pos for _, pos in grown), default=self._seen)
        topics = {topic for topic, _ in grown}
        for reader in waiting:
            if not topics.isdisjoint(reader.topics):
                reader.hear(topics)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, Moved):
                log.error("%s", error)
            else:
                log.critical("the housekeeping of %s died: %r; the broker is closed", self.database.path, error)
            self._died = error
            self._wake_all()

    async def _housekeeping(self) -> None:
        """Renew leases, notice dead members and new ones, move what is due, apply retention."""
        tick = min(TICK, self.lease / 6) if not self._wakeup.polling else POLL_WITHOUT_INOTIFY
        version = heartbeat = retention = -1.0e9
        seen: list[Any] = []
        while True:
            due = None
            self._stir.clear()
            try:
                if self.writer.broken is not None:
                    raise self.writer.broken
                now = self.clock.monotonic()
                self.writer.expire()
                if self._groups and now - heartbeat > self.lease / 3:
                    await self.writer.patiently(
                        lambda c: c.execute(
                            membership.HEARTBEAT, (self.clock.monotonic() + self.lease, self.process.name)
                        )
                    )
                    heartbeat = now  # not before: one that failed is tried again at the next tick
                if (changed := self.read("PRAGMA data_version")[0][0]) != version:
                    version = changed
                    self._heard()
                seen = await self._watch_members(seen)
                due = await self._move_due()
                if now - retention > RETENTION_EVERY:
                    retention = now
                    await self._retain()
            except StorageBroken:
                raise  # whoever waits for more is to hear of it, not to look as if it lived
            except (StorageError, Closed) as error:
                log.warning("the housekeeping of %s will try again: %s", self.database.path, error)
            until_due = tick if due is None else max(due - self.clock.now(), 0.0)
            await self.clock.wait(self._stir, min(tick, until_due))

    async def _watch_members(self, seen: list[Any]) -> list[Any]:
        members = self.read(membership.MEMBERS)
        now = self.clock.monotonic()
        dead = [id for id, _, process, lease in members
                if process != self.process.name and (lease < now or self.process.dead(process))]  # fmt: skip
        if dead:
            leases = {id: lease for id, _, _, lease in members if id in dead}
            await self.writer.patiently(lambda connection: membership.bury_silent(connection, leases, self.lent))
        owners = self.read("SELECT grp, owner, count(*) FROM tidings_part GROUP BY grp, owner")
        ids = [(group, id) for id, group, _, _ in members]
        if [ids, owners] != seen:
            for group in self._groups:
                group.stale = True
                group.wake.set()
        return [ids, owners]

    async def _move_due(self) -> float | None:
        """Give what is due its place in the log; returns when the next one is, whichever process has published it."""
        now = self.clock.now()
        due: float | None = self.read(NEXT_DUE)[0][0]
        if due is None or due > now:
            return due

        def move(connection: Connection) -> None:
            connection.appended = True
            connection.execute(MOVE_DUE, (now,))
            failpoint.hit("moving_due")
            connection.execute(DROP_DUE, (now,))

        await self.writer.patiently(move)
        after: float | None = self.read(NEXT_DUE)[0][0]
        return after

    async def _retain(self) -> None:
        """Remove what is past its time, in small steps, and never what a group has not settled."""
        await self.writer.patiently(lambda connection: connection.execute(FORGET_PASSED))
        for topic, keep_seconds, keep_count in self.read("SELECT id, keep_seconds, keep_count FROM tidings_topic"):
            if not (oldest := self._oldest_kept(topic, keep_seconds, keep_count)):
                continue
            slowest = self.read(SLOWEST, {"topic": topic})[0][0]
            values = {"topic": topic, "oldest": oldest, "slowest": oldest if slowest is None else slowest}
            removed = 1000 if self.read(EXPIRABLE, values) else 0  # a commit for each empty topic would be many
            while removed == 1000:
                removed = await self.writer.patiently(partial(_expire, values=values))

    def _oldest_kept(self, topic: int, keep_seconds: float | None, keep_count: int | None) -> int:
        """The last position that may go: everything up to it is past both limits that are set."""
        limits = []
        if keep_seconds is not None and keep_seconds < float("inf"):
            limits.append(position(self._reader, topic, self.clock.now() - keep_seconds))
        if keep_count is not None:
            row = self.read(
                "SELECT pos FROM tidings_log WHERE topic = ? ORDER BY pos DESC LIMIT 1 OFFSET ?", (topic, keep_count)
            )
            limits.append(row[0][0] if row else 0)
        return max(limits, default=0)


def _expire(connection: Connection, values: Mapping[str, Any]) -> int:
    return connection.execute(EXPIRED, values).rowcount


def append(connection: Connection, rows: Sequence[Any]) -> None:
    """Write rows at the end of the log; an id that the topic has already is the same event and kept once.

    As many rows as possible in a statement: sixty-four cost two thirds of one each, and every statement lets go of the
    interpreter's lock, for which it then has to wait.
    """
    connection.appended = True
    first = 0
    for together, statement in APPEND:
        while first + together <= len(rows):
            connection.execute(statement, list(chain.from_iterable(rows[first : first + together])))
            first += together


def position(connection: Connection, topic: int, start: Start | float) -> int:
    """The position before the first record that a reader from `start` gets."""
    if start is Start.EARLIEST:
        return 0
    if start is Start.LATEST:
        return int(connection.execute(HEAD).fetchone()[0])
    return int(connection.execute(SINCE, (topic, start)).fetchone()[0])
