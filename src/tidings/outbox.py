"""Publishes exactly what a transaction committed, where the broker cannot join it; and what is due later.

Rows are written in the transaction of the effects. After its commit the process that holds the relay's lease publishes
them in the order in which they were written and removes them: acknowledged means published. Who has written something
takes the lease in the same transaction where it is free, and gives it back only in the one in which it finds nothing
more to publish: so every row is seen by whoever holds it then, without anybody being told. A process that died holds it
until it ends; what it published and had not removed is published once more, under the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from tidings import failpoint
from tidings.broker import Record
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, PublishFailed
from tidings.link import Link
from tidings.store import Store

log = logging.getLogger("tidings")

SCHEMA = """CREATE TABLE IF NOT EXISTS tidings_outbox (seq {serial}, due DOUBLE PRECISION, topic TEXT NOT NULL,
    id TEXT NOT NULL, type TEXT NOT NULL, key TEXT, time DOUBLE PRECISION NOT NULL, headers TEXT NOT NULL,
    body {bytes} NOT NULL);
CREATE INDEX IF NOT EXISTS tidings_outbox_due ON tidings_outbox(due, seq);
CREATE TABLE IF NOT EXISTS tidings_relay (broker TEXT PRIMARY KEY, owner TEXT, until DOUBLE PRECISION NOT NULL)"""
WRITE = """INSERT INTO tidings_outbox (due, topic, id, type, key, time, headers, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
TAKE = """INSERT INTO tidings_relay (broker, owner, until) VALUES ('', ?, ?) ON CONFLICT (broker) DO UPDATE
    SET owner = excluded.owner, until = excluded.until
    WHERE tidings_relay.owner IS NULL OR tidings_relay.owner = excluded.owner OR tidings_relay.until < ?"""
GIVE = """UPDATE tidings_relay SET owner = NULL WHERE owner = ? AND NOT EXISTS (SELECT 1 FROM tidings_outbox
    WHERE due IS NULL OR due <= ?)"""
READY = """SELECT seq, topic, body, key, type, id, time, headers FROM tidings_outbox WHERE due IS NULL OR due <= ?
    ORDER BY coalesce(due, 0), seq LIMIT 500"""
REMOVE = "DELETE FROM tidings_outbox WHERE seq = ?"
NEXT = "SELECT min(due) FROM tidings_outbox"
WAITING = "SELECT count(*) FROM tidings_outbox WHERE due IS NULL OR due <= ?"
LEASE = 15.0
"""Seconds for which the relay is one process's at most; it renews that with every batch."""
LOOK = 1.0
"""Seconds between two looks at what nobody else publishes."""
PAUSE = 0.5


class Outbox:
    """The outbox of a store, for one broker. `lease` in seconds: so long what a process that died has left may wait."""

    def __init__(self, store: Store, link: Link, clock: Clock, *, lease: float = LEASE) -> None:
        self._store = store
        self._link = link
        self._clock = clock
        self._lease = min(lease, LEASE)
        self._owner = clock.id()
        self._mine = False
        self._stir = asyncio.Event()
        self._closing = False
        self._relay: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to publish what is there."""
        self._closing = False
        self._relay = asyncio.create_task(self._run(), name="tidings-outbox")

    async def close(self, grace: float) -> None:
        """Publish what is there, for at most `grace` seconds; the rest is kept."""
        if self._relay is None:
            return
        self._closing = True
        self._stir.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([self._relay], timeout=grace)
        self._relay.cancel()
        self._relay = None

    def check(self) -> None:
        """Raises what the relay died of."""
        if self._relay is None:
            raise Closed("the outbox is not open")
        if self._relay.done() and not self._relay.cancelled() and (error := self._relay.exception()):
            raise error

    def write(self, connection: Any, records: Sequence[Record]) -> bool:
        """In a transaction: what is to be published once it commits. Whether that is then this process's to do."""
        rows = [
            (record.due, record.topic, record.id, record.type, record.key, record.time,
             msgspec.json.encode(record.headers).decode(), record.value)
            for record in records
        ]  # fmt: skip
        self._store.many(connection, WRITE, rows)
        return self._take(connection)

    def _take(self, connection: Any) -> bool:
        now = self._clock.now()
        return self._store.many(connection, TAKE, [(self._owner, now + self._lease, now)]) > 0

    def stir(self, mine: bool) -> None:
        """Something was committed; `mine` is what `write` returned."""
        self._mine = self._mine or mine
        self._stir.set()

    async def _run(self) -> None:
        while True:
            try:
                while await self._turn():
                    pass
            except BrokerError as error:
                log.warning("the outbox waits: %s", error)
                await self._clock.sleep(PAUSE)
                continue
            if self._closing:
                return
            await self._clock.wait(self._stir, await self._until_due())
            self._stir.clear()

    async def _until_due(self) -> float:
        ((due,),) = await self._store.rows(NEXT, ())
        return LOOK if due is None else min(max(due - self._clock.now(), 0.0), LOOK)

    async def _turn(self) -> bool:
        """Publish some where that is this process's to do; whether there may be more."""
        now = self._clock.now()
        if not self._mine:
            ((waiting,),) = await self._store.rows(WAITING, (now,))
            if not waiting or not await self._claim():
                return False
            self._mine = True
        rows = await self._store.rows(READY, (now,))
        sent = await self._publish(rows) if rows else []
        failpoint.hit("relayed")
        self._mine = await self._settle(sent, now)
        return self._mine

    async def _publish(self, rows: Sequence[Any]) -> list[Any]:
        """Those that are published now; an error only where none is."""
        records = [
            Record(topic, bytes(body), key, type, id, time, msgspec.json.decode(headers, type=dict[str, str]))
            for _, topic, body, key, type, id, time, headers in rows
        ]
        try:
            await self._link.publish(records)
        except PublishFailed as failed:
            unsent = set(failed.unsent)
            sent = [row for row in rows if row[5] not in unsent]
            if not sent:
                raise
            log.warning("the outbox will publish %d again: %s", len(unsent), failed)
            return sent
        return list(rows)

    async def _claim(self) -> bool:
        taken: list[bool] = []
        unit = self._store.unit()
        unit.add(lambda connection: taken.append(self._take(connection)))
        await unit.commit()
        return taken[-1]

    async def _settle(self, sent: Sequence[Any], now: float) -> bool:
        """Remove these; whether the relay is still this process's, because there is more."""
        kept: list[bool] = []

        def step(connection: Any) -> None:
            self._store.many(connection, REMOVE, [(row[0],) for row in sent])
            if self._store.many(connection, GIVE, [(self._owner, now)]):
                kept.append(False)
            else:
                kept.append(self._take(connection))

        unit = self._store.unit()
        unit.add(step)
        await unit.commit()
        return kept[-1]
