"""The PostgreSQL broker: a log, a position per group and part, and rows only for exceptions, in the schema `tidings`.

A guided tour. `publish` hands entries to the group-commit writer (`pg/writer.py`), which gives them positions in an
order that no reader can miss (`pg/log.py`) and tells the readers of every process. A member of a group reads, lends and
settles in `pg/group.py`; who owns which part of the keys is decided in `pg/membership.py`. What is here: publishing,
and the housekeeping on a connection of its own, which hears NOTIFY as a hint and looks for itself
all the same: leases, dead members, delayed records that fall due, retention.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import msgspec
import psycopg

from tidings import failpoint
from tidings.broker import Feature, Lag, Record, Start
from tidings.clock import Clock
from tidings.embedded.feed import Feed, Loan
from tidings.embedded.membership import Process
from tidings.embedded.view import View
from tidings.errors import (
    BodyTooLarge,
    BrokerError,
    Closed,
    InvalidEvent,
    PublishFailed,
    StorageBroken,
    StorageError,
    StorageFull,
)
from tidings.pg import backlog, membership
from tidings.pg import log as records
from tidings.pg.connection import Connection, Row
from tidings.pg.database import Database
from tidings.pg.group import Group
from tidings.pg.keeper import Keeper
from tidings.pg.lending import LOOK, LOOK_ON
from tidings.pg.reader import Reader
from tidings.pg.schema import PARTS
from tidings.pg.writer import DELAYED, Step, Writer
from tidings.store import Unit

log = logging.getLogger("tidings")

TOPIC = "SELECT id, keep_seconds, keep_count FROM tidings.topic WHERE name = %s"
GROUPS_OF = """SELECT g.name FROM tidings.feed f JOIN tidings.grp g ON g.id = f.grp
    JOIN tidings.topic t ON t.id = f.topic WHERE t.name = %s"""
GROUP = "SELECT id FROM tidings.grp WHERE name = %s"
FEED_OF = """SELECT f.id, f.topic, f.grp FROM tidings.feed f JOIN tidings.topic t ON t.id = f.topic
    JOIN tidings.grp g ON g.id = f.grp WHERE t.name = %s AND g.name = %s"""
FEEDS_OF = """SELECT f.id, f.topic, t.name FROM tidings.feed f JOIN tidings.topic t ON t.id = f.topic
    WHERE f.grp = %s ORDER BY f.id"""
NEW_TOPIC = "INSERT INTO tidings.topic (name, keep_seconds) VALUES (%s, %s) ON CONFLICT DO NOTHING"
KEEP = "UPDATE tidings.topic SET keep_seconds = %s, keep_count = %s WHERE name = %s"
NEW_GROUP = "INSERT INTO tidings.grp (name) VALUES (%s) ON CONFLICT DO NOTHING"
NEW_PARTS = "INSERT INTO tidings.part (grp, part) SELECT %s, generate_series(0, %s) ON CONFLICT DO NOTHING"
NEW_FEED = "INSERT INTO tidings.feed (grp, topic) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING id"
NEW_POSITIONS = "INSERT INTO tidings.position (feed, part, pos) SELECT %s, generate_series(0, %s), %s"
MOVE = "UPDATE tidings.position SET pos = %s, lent = 0 WHERE feed = %s"
FORGET = "DELETE FROM tidings.ack WHERE feed = %s"

LEASE = 30.0
KEEP_SECONDS = 7 * 86400.0
CLOSING = 10.0


class PostgresBroker:
    """The broker in a database. `lease` in seconds: how long a member that is silent keeps its parts.

    `keep` in seconds and `keep_count` say how much of what every group has settled a topic keeps: a week where neither
    is ever said. They are kept with the topics that this broker declares. `limit` in bytes: a larger body is refused,
    unless a transaction publishes it: that must be able to bury what is there.
    """

    features = Feature.DURABLE | Feature.ORDERED | Feature.REPLAY | Feature.DELAY | Feature.ATOMIC | Feature.UNIQUE

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
        self.process = Process(clock.id())
        self.topics: dict[str, int] = {}
        self._headers: tuple[Mapping[str, str], str] = ({}, "{}")
        self._header_text: tuple[str, Mapping[str, str]] = ("{}", {})
        self.groups: dict[Group, None] = {}
        self.views: dict[View, None] = {}
        self._counting = asyncio.Lock()
        self._spread = 0
        self._open = False
        self._died: BaseException | None = None

    # -- the connection

    async def open(self) -> None:
        """See Broker.open. Raises a StorageError that says what to do."""
        if self._open:
            return
        await asyncio.to_thread(self.database.prepare)
        self.writer = Writer(self.database, self.heard)
        self._reader, self._counter = Reader(self.database), Reader(self.database)
        self.keeper = Keeper(self)
        self._open = True
        self._died = None
        self.housekeeper = asyncio.create_task(self.keeper.run(), name="tidings-housekeeping")
        self.housekeeper.add_done_callback(self._ended)

    async def close(self) -> None:
        """See Broker.close."""
        if not self._open:
            return
        for group in list(self.groups):
            await group.close()
        self._open = False
        self.heard()
        self.housekeeper.cancel()
        await asyncio.wait([self.housekeeper], timeout=CLOSING)
        await self.writer.close()
        await self._reader.close()
        await self._counter.close()

    async def read(self, sql: str, values: Any = None) -> list[Row]:
        """One short statement that commits by itself."""
        return await self._reader.read(sql, values)

    async def _page(self, topic: int, after: int, most: int) -> list[Row]:
        return await self.read(LOOK_ON, {"topic": topic, "after": after, "limit": most})

    async def run(self, step: Step) -> Any:
        """Run a step in a transaction."""
        self.check()
        return await self.writer.run(step)

    def suspicious(self, group: Group) -> bool:
        """Whether another group of this process has suspects out."""
        return any(other.alone for other in self.groups if other is not group)

    def forget(self, reader: Any) -> None:
        """It is closed."""
        if isinstance(reader, Group):
            self.groups.pop(reader, None)
        else:
            self.views.pop(reader, None)

    def check(self) -> None:
        """Raises Closed where the broker is not open."""
        if self._died is not None:
            raise StorageBroken(f"the housekeeping of {self.database.name} died; start again") from self._died
        if not self._open:
            raise Closed(f"the broker on {self.database.name} is not open")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the housekeeping of %s died: %r; the broker is closed", self.database.name, error)
            self._died = error
            self.heard()

    # -- publishing

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Broker.declare."""
        self.check()
        found = await self.read(TOPIC, (topic,))
        known = {name for (name,) in await self.read(GROUPS_OF, (topic,))} if groups else set()
        if found and known.issuperset(groups) and self._keep in ((None, None), found[0][1:]):
            self.topics[topic] = found[0][0]
        else:
            self.topics[topic] = await self.run(lambda connection: self._declare(connection, topic, groups, start))

    def _declare(self, connection: Connection, topic: str, groups: Sequence[str], start: Start | float) -> int:
        connection.run(NEW_TOPIC, (topic, KEEP_SECONDS))
        if self._keep != (None, None):
            connection.run(KEEP, (*self._keep, topic))
        topic_id = int(_one(connection.run(TOPIC, (topic,))))
        for name in sorted(groups):
            connection.run(NEW_GROUP, (name,))
            group = _one(connection.run(GROUP, (name,)))
            connection.run(NEW_PARTS, (group, PARTS - 1))
            if (made := connection.run(NEW_FEED, (group, topic_id)).fetchone()) is not None:
                pos = records.position(connection, topic_id, start)
                connection.run(NEW_POSITIONS, (made[0], PARTS - 1, pos))
        return topic_id

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
            else:
                await self.writer.append([self._entry(record, self.topics) for record in records])
        except (StorageFull, StorageBroken, Closed):
            raise
        except (UnicodeError, psycopg.DataError) as error:
            raise InvalidEvent(f"An attribute of a record is no text: {error}. Nothing was published.") from error
        except StorageError as error:
            raise PublishFailed(str(error), [record.id for record in records]) from error
        failpoint.hit("published")

    def _publish_in(self, connection: Connection, records: Sequence[Record], made: dict[str, int]) -> None:
        """In the writer's thread: records may be delayed, and topics new: known to others once this is committed."""
        now = self.clock.now()
        for record in records:
            if record.topic not in self.topics and record.topic not in made:
                made[record.topic] = self._declare(connection, record.topic, (), Start.LATEST)
        topics = self.topics | made if made else self.topics
        for record in records:
            if record.due is None or record.due <= now:
                connection.appended.append(self._entry(record, topics))
            else:
                connection.delayed.append((record.due, self._entry(record, topics)))

    def _entry(self, record: Record, topics: Mapping[str, int]) -> records.Entry:
        key = None if record.key is None else record.key.encode()
        if key is None:
            self._spread = part = (self._spread + 1) % PARTS
        else:
            part = zlib.crc32(key) % PARTS
        headers, text = self._headers
        if record.headers != headers:
            text = msgspec.json.encode(record.headers).decode()
            self._headers = (dict(record.headers), text)
        return topics[record.topic], part, record.id, record.type, key, record.time, text, record.value

    # -- consuming

    async def subscribe(
        self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST
    ) -> Group | View:
        """See Broker.subscribe."""
        self.check()
        for topic in topics:
            await self.declare(topic, () if group is None else (group,), start)
        if group is None:
            cursors = {name: await self._position(self.topics[name], start) for name in topics}
            view = View(self, self.topics, cursors, self._page, LOOK)
            self.views[view] = None
            return view
        ((group_id,),) = await self.read(GROUP, (group,))
        feeds = await self.read(FEEDS_OF, (group_id,))
        member = Group(self, group_id, group, [Feed(*feed) for feed in feeds if feed[2] in topics])
        self.groups[member] = None
        try:
            await member.join()
        except BaseException:
            await member.close()  # a member that nobody has would keep its parts for as long as we live
            raise
        return member

    async def _position(self, topic: int, start: Start | float) -> int:
        if start is Start.EARLIEST:
            return 0
        found = [] if start is Start.LATEST else await self.read(records.SINCE, (topic, start))
        return int((found or await self.read(records.HEAD, (topic,)))[0][0])

    def deliveries(self, topic: str, rows: Sequence[Row], attempts: Sequence[int] | None = None) -> list[Loan]:
        """Rows of the log as what is lent. Neighbours often have the same headers: those are decoded once."""
        text, headers = self._header_text
        loans = []
        for (pos, part, id, type, key, time, row_text, body), attempt in zip(rows, attempts or repeat(1), strict=False):
            if row_text != text:
                text, headers = row_text, msgspec.json.decode(row_text, type=dict[str, str])
            record = Record(topic, body, None if key is None else key.decode(), type, id, time, headers)
            loans.append(Loan(record, attempt, pos, part))
        self._header_text = (text, headers)
        return loans

    async def lag(self, topic: str, group: str) -> Lag:
        """See Broker.lag. Counts on a connection of its own: a million waiting records take some tenths of a second."""
        self.check()
        async with self._counting:  # the deadline of each begins with its turn
            rows = await self._counter.read(backlog.LAG, {"topic": topic, "group": group})
        return backlog.of(rows, self.clock.now())

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Broker.seek."""

        def move(connection: Connection) -> None:
            row = connection.run(FEED_OF, (topic, group)).fetchone()
            if row is None:
                raise BrokerError(f"There is no group {group} on topic {topic}; `tidings groups` lists them.")
            feed, topic_id, group_id = row
            connection.run(membership.TURN, (group_id,))
            for (member,) in connection.run(membership.MEMBERS_OF, (group_id,)).fetchall():
                membership.hand_over(connection, group_id, member, died=False)
            connection.run(MOVE, (records.position(connection, topic_id, to), feed))
            connection.run(FORGET, (feed,))

        await self.run(move)
        for member in self.groups:
            member.stale = True
            member.hear()

    # -- hearing

    def heard(self, topics: Iterable[int] | None = None) -> None:
        """These topics have grown, or nobody knows what has: wake those who wait for it."""
        grown = None if topics is None else set(topics)
        if grown is not None and DELAYED in grown:
            self.keeper.stir.set()
        readers: list[Group | View] = [*self.groups, *self.views]
        for reader in readers:
            if grown is None or not grown.isdisjoint(reader.topics):
                reader.hear(grown)


def _one(cursor: psycopg.Cursor[Row]) -> Any:
    """The first value of the first row, which there is."""
    row = cursor.fetchone()
    assert row is not None
    return row[0]
