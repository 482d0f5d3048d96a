"""The housekeeping of a process, and its ear: one connection that listens, and asks every half second what is to do.

NOTIFY is only a hint: whoever waits for records looks for itself every second. A connection that died without a word is
found out by the next question on it, and made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

import psycopg

from tidings import failpoint
from tidings.clock import Clock
from tidings.embedded.membership import Process
from tidings.errors import Closed, StorageBroken, StorageError
from tidings.pg import log as records
from tidings.pg import membership
from tidings.pg.connection import Connection, Row
from tidings.pg.database import DEADLINE, Database, named
from tidings.pg.writer import Writer

log = logging.getLogger("tidings")

TICK = 0.5
SURE_EVERY = 10.0
"""Seconds after which groups look at their exceptions again, whatever they know of them."""
RETENTION_EVERY = 60.0
CHUNK = 1000

TOPICS = "SELECT id, keep_seconds, keep_count FROM tidings.topic"
FORGET_PASSED = """DELETE FROM tidings.ack a USING tidings.position p
    WHERE a.state = 0 AND p.feed = a.feed AND p.part = a.part AND a.pos <= p.pos"""
OLDEST_BY_TIME = """SELECT coalesce((SELECT pos - 1 FROM tidings.log
        WHERE topic = %(topic)s AND time >= %(time)s ORDER BY pos LIMIT 1),
    (SELECT max(pos) FROM tidings.log WHERE topic = %(topic)s), 0)"""
OLDEST_BY_COUNT = "SELECT pos FROM tidings.log WHERE topic = %s ORDER BY pos DESC LIMIT 1 OFFSET %s"
EXPIRE = """DELETE FROM tidings.log WHERE topic = %(topic)s AND pos IN (SELECT pos FROM tidings.log
    WHERE topic = %(topic)s AND pos <= least(%(oldest)s,
        (SELECT min(p.pos) FROM tidings.position p JOIN tidings.feed f ON f.id = p.feed WHERE f.topic = %(topic)s),
        (SELECT min(a.pos) - 1 FROM tidings.ack a JOIN tidings.feed f ON f.id = a.feed
            WHERE f.topic = %(topic)s AND a.state != 0))
    ORDER BY pos LIMIT %(chunk)s FOR UPDATE SKIP LOCKED)"""


class Kept(Protocol):
    """What the housekeeping needs of its broker."""

    database: Database
    clock: Clock
    lease: float
    process: Process
    writer: Writer
    groups: Any

    def heard(self, topics: Any = None) -> None:
        """Wake those who wait for these topics."""
        ...


class Keeper:
    """Runs until it is cancelled, whatever the server does. Raises StorageBroken where nothing more can be written."""

    def __init__(self, broker: Kept) -> None:
        self.stir = asyncio.Event()
        self._broker = broker
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._members: Any = None
        self._beat = self._sure = self._retained = float("-inf")
        self._warned = False
        self._chore: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look, listen, and again."""
        try:
            while True:
                pause = min(TICK, self._broker.lease / 6)
                self.stir.clear()
                try:
                    due = await self._look()
                    self._warned = False
                except (StorageError, Closed) as error:
                    if isinstance(error, StorageBroken):
                        raise
                    await self._lost(error)
                    await self._broker.clock.sleep(pause)
                    continue
                await self._listen(pause if due is None else min(pause, max(due, 0.001)))
        finally:
            if self._chore is not None:
                self._chore.cancel()
                await asyncio.wait([self._chore])
            await self._drop()

    def _begin(self, chore: Coroutine[Any, Any, None]) -> None:
        """Do what has to wait for the writer, one thing at a time: leases are renewed meanwhile."""
        if self._chore is None or self._chore.done():
            self._chore = asyncio.create_task(self._do(chore), name="tidings-chore")
        else:
            chore.close()

    async def _do(self, chore: Coroutine[Any, Any, None]) -> None:
        try:
            await chore
        except (StorageError, Closed) as error:
            log.warning("the housekeeping of %s will try again: %s", self._broker.database.name, error)

    async def _lost(self, error: Exception) -> None:
        if not self._warned:
            log.warning("the housekeeping of %s will try again: %s", self._broker.database.name, error)
        self._warned = True
        self._members = None
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    # -- listening

    async def _listen(self, seconds: float) -> None:
        """Hear what others have committed, for so long or until something is delayed."""
        hearing = asyncio.create_task(self._hear(seconds))
        stirring = asyncio.create_task(self.stir.wait())
        try:
            await asyncio.wait([hearing, stirring], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (hearing, stirring):
                task.cancel()
            await asyncio.gather(hearing, stirring, return_exceptions=True)

    async def _hear(self, seconds: float) -> None:
        assert self._connection is not None
        try:
            async for notice in self._connection.notifies(timeout=seconds):
                if notice.pid == self._broker.writer.pid:
                    continue  # this process has heard of it as soon as it was committed
                topics = [int(topic) for topic in notice.payload.split(",") if topic.isdecimal()]
                self._broker.heard(topics)
        except psycopg.Error:
            return  # the next look finds out what is wrong

    # -- looking

    async def _ask(self, sql: str, values: Any = None) -> list[Row]:
        assert self._connection is not None
        try:
            async with asyncio.timeout(DEADLINE):
                cursor = await self._connection.execute(sql.encode(), values, prepare=True, binary=True)
                return await cursor.fetchall() if cursor.description else [(cursor.rowcount,)]
        except psycopg.Error as error:
            raise named(error, self._broker.database.name) from error
        except TimeoutError:
            raise StorageError(f"{self._broker.database.name} did not answer within {DEADLINE:g} s") from None

    async def _look(self) -> float | None:
        """What has to be done now; returns in how many seconds a delayed record is due."""
        broker = self._broker
        if broker.writer.broken is not None:
            raise broker.writer.broken
        if self._connection is None:
            self._connection = await broker.database.connect_async()
            await self._ask("LISTEN tidings")
        now = broker.clock.monotonic()
        if broker.groups and now - self._beat > broker.lease / 3:
            await self._ask(membership.HEARTBEAT, (float(broker.lease), broker.process.name))
            self._beat = now
        await self._see_members()
        due = await self._next_due()
        if now - self._sure > SURE_EVERY:
            self._sure = now
            for group in broker.groups:
                group.unsure = True
                group.wake.set()
        if now - self._retained > RETENTION_EVERY:
            self._retained = now
            await self._retain()
        return due

    async def _see_members(self) -> None:
        broker = self._broker
        members = await self._ask(membership.MEMBERS)
        dead = [row[:4] for row in members
                if row[2] != broker.process.name and (row[4] or _gone(row[2], broker.process))]  # fmt: skip
        if dead:
            self._begin(self._bury(dead))
        seen = ([row[:2] for row in members], await self._ask(membership.OWNERS))
        if seen != self._members:
            for group in broker.groups:
                group.stale = True
                group.wake.set()
        self._members = seen

    async def _bury(self, dead: Sequence[Row]) -> None:
        for id, group, _, lease in dead:
            await self._broker.writer.run(partial(membership.bury, group=group, member=id, lease=lease))
        self.stir.set()

    async def _next_due(self) -> float | None:
        """In how many seconds a delayed record is due; those that are get their place in the log."""
        due: float | None = (await self._ask(records.NEXT_DUE))[0][0]
        if due is None or due > 0:
            return due
        self._begin(self._move_due())
        return None

    async def _move_due(self) -> None:
        def move(connection: Connection) -> None:
            connection.grown.update(records.move_due(connection))
            failpoint.hit("moving_due")

        await self._broker.writer.run(move)
        self.stir.set()

    async def _retain(self) -> None:
        """Remove what is past its time, in small steps, and never what a group has not settled."""
        await self._ask(FORGET_PASSED)
        for topic, seconds, count in await self._ask(TOPICS):
            oldest = await self._oldest_kept(topic, seconds, count)
            removed = CHUNK if oldest else 0
            while removed == CHUNK:
                ((removed,),) = await self._ask(EXPIRE, {"topic": topic, "oldest": oldest, "chunk": CHUNK})

    async def _oldest_kept(self, topic: int, seconds: float | None, count: int | None) -> int:
        """The last position that may go: everything up to it is past both limits that are set."""
        limits = []
        if seconds is not None and seconds < float("inf"):
            values = {"topic": topic, "time": self._broker.clock.now() - seconds}
            limits.append((await self._ask(OLDEST_BY_TIME, values))[0][0])
        if count is not None:
            row = await self._ask(OLDEST_BY_COUNT, (topic, count))
            limits.append(row[0][0] if row else 0)
        return max(limits, default=0)


def _gone(name: str, mine: Process) -> bool:
    """Whether a process of this machine is surely gone; of another machine that cannot be known from here."""
    return name.partition("/")[0] == mine.name.partition("/")[0] and Process.dead(name)
