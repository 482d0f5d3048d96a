"""What a group has already done, and what it will try again, where the broker cannot join the store's transaction.

A row a group and event. It says that the event is done, in the transaction that holds the effects, so that an event
which comes again, because its acknowledgement was lost or it was published twice, is known and not handled. Or it says
how often the event was handed back, and until when: for the next member. Rows stay for as long as the broker may bring
an event again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tidings.errors import Fenced
from tidings.store import Store

SCHEMA = """CREATE TABLE IF NOT EXISTS tidings_inbox (grp TEXT NOT NULL, topic TEXT NOT NULL, id TEXT NOT NULL,
    done INTEGER NOT NULL, tries INTEGER NOT NULL, due DOUBLE PRECISION NOT NULL, owner TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL, PRIMARY KEY (grp, topic, id));
CREATE INDEX IF NOT EXISTS tidings_inbox_at ON tidings_inbox(at);
CREATE TABLE IF NOT EXISTS tidings_epoch (grp TEXT PRIMARY KEY, epoch INTEGER NOT NULL)"""
EPOCH = "SELECT epoch FROM tidings_epoch WHERE grp = ?"
NEXT_EPOCH = """INSERT INTO tidings_epoch (grp, epoch) VALUES (?, 1)
    ON CONFLICT (grp) DO UPDATE SET epoch = tidings_epoch.epoch + 1"""
FIND = "SELECT id, done, tries, due, owner FROM tidings_inbox WHERE grp = ? AND topic = ? AND id IN ({})"
INSERT = """INSERT INTO tidings_inbox (grp, topic, id, done, tries, due, owner, at) VALUES (?, ?, ?, {}, ?, ?, ?, ?)
    ON CONFLICT (grp, topic, id) DO UPDATE SET """
DONE = INSERT.format(1) + "done = 1 WHERE tidings_inbox.done = 0 AND tidings_inbox.owner = excluded.owner"
CLAIM = INSERT.format(0) + "owner = excluded.owner WHERE tidings_inbox.done = 0"
RETRY = INSERT.format(0) + "tries = excluded.tries, due = excluded.due WHERE tidings_inbox.done = 0"
FORGET = "DELETE FROM tidings_inbox WHERE grp = ? AND topic = ?"
EXPIRE = """DELETE FROM tidings_inbox WHERE (grp, topic, id) IN (SELECT grp, topic, id FROM tidings_inbox WHERE at < ?
    ORDER BY at LIMIT 1000)"""


Place = tuple[str, str]
"""Topic and id of an event."""


class Memory(NamedTuple):
    """What is known of an event: that it is done, or else how often it was handed back and until when, and by whom."""

    done: int
    tries: int
    due: float
    owner: str


class Inbox:
    """The inbox of one group, as its member `owner` uses it."""

    def __init__(self, store: Store, group: str, owner: str) -> None:
        self._store = store
        self._group = group
        self._owner = owner

    async def known(self, topic: str, ids: Sequence[str]) -> Mapping[str, Memory]:
        """What is known of these events; one read."""
        sql = FIND.format(", ".join("?" * len(ids)))
        rows = await self._store.rows(sql, (self._group, topic, *ids))
        return {id: Memory(*rest) for id, *rest in rows}

    async def epoch(self) -> int:
        """The group's epoch: each seek begins a new one."""
        rows = await self._store.rows(EPOCH, (self._group,))
        return int(rows[0][0]) if rows else 0

    def finish(self, connection: Any, done: Sequence[Place], *, epoch: int, at: float) -> int:
        """In a transaction: these are done. How many of them were not done before, or claimed by another member.

        Raises Fenced where the group was moved after `epoch`.
        """
        rows = self._store.find(connection, EPOCH, (self._group,))
        if (int(rows[0][0]) if rows else 0) != epoch:
            raise Fenced(f"{self._group} was moved meanwhile; what it held comes again, if it is still to come")
        return self._store.many(connection, DONE, [(self._group, *place, 0, 0.0, self._owner, at) for place in done])

    async def claim(self, places: Sequence[Place], at: float) -> None:
        """These were out with another member, which may still live: from now on it cannot settle them."""
        await self._write(CLAIM, [(self._group, *place, 0, 0.0, self._owner, at) for place in places])

    async def again(self, tries: Mapping[Place, int], due: float, at: float) -> None:
        """Remember how often these were handed back, and when they are due."""
        rows = [(self._group, *place, count, due, self._owner, at) for place, count in tries.items()]
        await self._write(RETRY, rows)

    async def _write(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        def step(connection: Any) -> None:
            self._store.many(connection, sql, rows)

        await self._commit(step)

    async def answer(self) -> None:
        """Wait for a turn: whatever was asked of the store before has been answered when this returns."""
        await self._commit(lambda connection: None)

    async def forget(self, topic: str) -> None:
        """The group is to handle the topic again; what it holds just now is fenced."""

        def step(connection: Any) -> None:
            self._store.many(connection, NEXT_EPOCH, [(self._group,)])
            self._store.many(connection, FORGET, [(self._group, topic)])

        await self._commit(step)

    async def _commit(self, step: Callable[[Any], None]) -> None:
        unit = self._store.unit()
        unit.add(step)
        await unit.commit()


async def expire(store: Store, before: float) -> None:
    """Forget what is so old that no broker brings it again; in small steps."""
    removed = [1000]

    def step(connection: Any) -> None:
        removed[0] = store.many(connection, EXPIRE, [(before,)])

    while removed[0] >= 1000:
        unit = store.unit()
        unit.add(step)
        await unit.commit()
