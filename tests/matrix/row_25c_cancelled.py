"""25c: what becomes of each call while another program holds the write lock, and of one that is cancelled.

Here the wait for the lock is short. Each call is made while the file is locked: it raises a typed error, and the file
is what it was. Then each is cancelled at every await, with the file free and with it locked: it has happened or it has
not, no transaction is left open, and the same call can be made again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.matrix import Figures, Row
from tests.matrix.row_25_locked import locked
from tests.storage.journey import COUNTS, Dump, dump
from tidings import PublishFailed
from tidings.broker import Delivery, Start, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Connection, Database
from tidings.errors import StorageBusy
from tidings.stores.sqlite import SqliteStore
from tidings.testing.checks.cancelling import cancel_at, points
from tidings.testing.checks.server import ids, nothing, record, take

WAIT = 0.1
"""Seconds that the connections wait for the lock, where those of others wait 5."""


class Impatient(Database):
    """Its connections wait for the lock for `WAIT`."""

    def connect(self, *, durable: bool | None = None) -> Connection:
        """See Database.connect."""
        connection = super().connect(durable=durable)
        connection.execute(f"PRAGMA busy_timeout={int(WAIT * 1000)}")
        return connection


class Desk(NamedTuple):
    """A broker with a member, and a store, on one file."""

    broker: SqliteBroker
    store: SqliteStore
    member: Subscription
    path: Path
    fetched: list[Delivery]

    async def lent(self, name: str) -> Sequence[Delivery]:
        """Two new events of one key; nothing else may come."""
        await self.broker.publish([record(f"{name}-1", "k"), record(f"{name}-2", "k")])
        lent = await take(self.member, 2)
        assert ids(lent) == [f"{name}-1", f"{name}-2"], "something was left of what came before"
        return lent

    def rows(self) -> Dump:
        """All that is in the file, but for leases."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return {name: rows for name, rows in dump(connection).items() if name != "tidings_member"}

    def has(self, name: str) -> set[bool]:
        """Whether each part of a commit is there."""
        rows = self.rows()
        state = any(row[:2] == (COUNTS.name, name) for row in rows["tidings_row"])
        return {state, any(row[3] == f"{name}-out" for row in rows["tidings_log"])}

    async def idle(self) -> None:
        """Until the writer has done what it had to, with no transaction left open."""
        await self.broker.run(lambda _: None)
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")


@contextlib.asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    database = Impatient(folder / "tidings.db")
    broker = SqliteBroker(database, Clock())
    await broker.open()
    store = SqliteStore(database, lambda: broker.writer)
    await store.open()
    await broker.declare("out", ())
    member = await broker.subscribe([record("").topic], "g", Start.EARLIEST)
    yield Desk(broker, store, member, database.path, [])
    await store.close()
    await broker.close()


async def commit(desk: Desk, name: str, lent: Sequence[Delivery]) -> None:
    """State, what is published and the acknowledgement."""
    unit, tx = desk.store.unit(), desk.store.begin()
    tx.put(COUNTS, name, 1)
    desk.store.finish(tx)
    unit.join([tx])
    await desk.broker.publish([record(f"{name}-out", topic="out")], tx=unit)
    await desk.member.ack(lent, tx=unit)
    await unit.commit()


async def fetch(desk: Desk, _: str, __: object) -> None:
    """What comes is remembered."""
    desk.fetched.extend(await desk.member.fetch(10, 0.0))


Call = Callable[[Desk, str, Sequence[Delivery]], Coroutine[Any, Any, object]]
CALLS: dict[str, Call] = {
    "publish": lambda desk, name, _: desk.broker.publish([record(f"{name}-out", topic="out")]),
    "fetch": fetch,
    "ack": lambda desk, _, lent: desk.member.ack(lent),
    "nack": lambda desk, _, lent: desk.member.nack(lent),
    "commit": commit,
}


async def prepared(desk: Desk, what: str, name: str) -> Sequence[Delivery]:
    """What the call is about. What is fetched was handed back before: to lend that writes."""
    lent = await desk.lent(name)
    if what == "fetch":
        await desk.member.nack(lent)
    return lent


async def finished(desk: Desk, what: str, name: str, lent: Sequence[Delivery]) -> None:
    """Make the call again where it may not have happened; after it nothing is left to do."""
    await desk.idle()
    if what == "commit":
        (happened,) = desk.has(name)
        if not happened:
            await commit(desk, name, lent)
        assert desk.has(name) == {True}
    elif what == "publish":
        await CALLS[what](desk, name, lent)
        assert len([row for row in desk.rows()["tidings_log"] if row[3] == f"{name}-out"]) == 1
    elif what == "nack":
        await desk.member.nack(lent)
    if what in ("fetch", "nack"):
        for each in lent:  # of one key: the second comes when the first is settled
            again = desk.fetched.copy() or await take(desk.member, 1)
            desk.fetched.clear()
            assert ids(again) == [each.record.id]
            await desk.member.ack(again)
    await desk.member.ack(lent)
    await nothing(desk.member, "something came twice", wait=0.0)


async def refused(desk: Desk, what: str) -> None:
    """While the file is locked: a typed error, and not a row of it is there."""
    name = f"refused-{what}"
    lent = await prepared(desk, what, name)
    before = desk.rows()
    with locked(desk.path), pytest.raises((PublishFailed, StorageBusy)) as info:
        await CALLS[what](desk, name, lent)
    assert isinstance(info.value, PublishFailed) == (what == "publish")
    assert isinstance(info.value.__cause__ if what == "publish" else info.value, StorageBusy)
    await desk.idle()
    assert desk.rows() == before
    await finished(desk, what, name, lent)


async def cancelled(desk: Desk, what: str, *, held: bool) -> int:
    """Cancel it at every await; how many there are."""
    count = 0
    for step, late, point in points():
        name, reached = f"{what}-{held}-{point}", False
        lent = await prepared(desk, what, name)
        with locked(desk.path) if held else contextlib.nullcontext(), contextlib.suppress(StorageBusy, PublishFailed):
            reached = await cancel_at(CALLS[what](desk, name, lent), step, late=late)
        await finished(desk, what, name, lent)
        if not reached:
            break
        count += 1
    return count


async def run(folder: Path) -> Figures:
    count = 0
    async with desk(folder) as it:
        for what in CALLS:
            await refused(it, what)
            for held in (False, True):
                count += await cancelled(it, what, held=held)
    return {
        "calls refused while locked": len(CALLS), "rows of them": 0, "cancelled at an await": count,
        "half done": 0, "transactions left open": 0,
    }  # fmt: skip


ROW = Row(
    "25c",
    "publish, fetch, ack, nack and a commit while another program holds the write lock for too long; each cancelled "
    "at every await, with the file free and locked",
    "a typed error (PublishFailed, StorageBusy) and nothing of it in the file; what was cancelled has happened or has "
    "not, no transaction is left open, and the call can be made again",
    run,
)
