"""A member of a consumer group on the embedded log: what it is lent, what it has settled, which parts it owns.

It reads on from its cursor with one short SELECT a batch and remembers what is lent; `ack` moves the position of its
parts up to the first record still lent, in the transaction that it shares with the effects. What cannot be said by a
position is a row in `tidings_ack`: DONE (settled above the position), RETRY (due later), HELD (behind a retried one
of its key), LENT (a retried one that is out), SUSPECT (was out when its member died). Keys with such rows
are `held`: what the log brings of them waits in line as a row of its own.

State lives on the event loop. Steps run in the writer's thread: they read snapshots and never change it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, Protocol

from tidings import failpoint
from tidings.broker import Delivery
from tidings.embedded import hand, membership
from tidings.embedded.database import Connection
from tidings.embedded.feed import (
    AGAIN,
    BODY,
    EXCEPTED,
    EXCEPTIONS,
    FETCH,
    FORGET,
    FORGET_DONE,
    HELD_KEYS,
    HOLD_LATER,
    KEEP_DONE,
    KNOWN_ABOVE,
    LEND,
    OWNS,
    PARK,
    READ,
    RELEASE_NEXT,
    SCAN,
    SETTLE,
    STATES,
    STILL_HELD,
    Feed,
    Loan,
    Mine,
    Rows,
    Shape,
    some,
    watermark,
)
from tidings.embedded.hand import LIGHT, RECEIPT, Hand, Settling, Withdrawal, done
from tidings.embedded.membership import DONE, HELD, PARTS, SUSPECT, Lent, Process
from tidings.store import Unit

FIRST = repeat(1)
"""The attempt of whatever is read from the log."""


class Host(hand.Host, Protocol):
    """What a group needs of its broker to read and write."""

    lease: float
    lent: Lent
    process: Process
    steady: Callable[[], float]

    def read(
        self, sql: str, values: Sequence[Any] | Mapping[str, Any] = (), rows: Rows = sqlite3.Cursor.fetchall
    ) -> list[Any]:
        """One short SELECT."""
        ...

    async def run(self, step: Callable[[Connection], Any]) -> Any:
        """Run a step in the writer's next transaction."""
        ...

    def deliveries(self, topic: str, rows: Sequence[Any], attempts: Sequence[int] | None = None) -> list[Loan]:
        """Rows of the log as what is lent."""
        ...

    def lend(self, topic: str, rows: Sequence[Any], shape: Shape, attempts: Iterable[int]) -> tuple[list[Loan], Shape]:
        """Rows of the log, as FETCH selects them with this shape, as what is lent, and the shape of the last."""
        ...


class Group(Hand[Host, Mine]):
    """A member of a group. Safe for one task that fetches and others that settle."""

    def __init__(self, broker: Host, group: int, name: str, feeds: Sequence[Feed]) -> None:
        super().__init__(broker, group, name, feeds, Mine([]))
        self.waiting = False  # whether a fetch waits for more

    def _now(self) -> float:
        return self._broker.steady()

    # -- lending

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Subscription.fetch; raises Fenced once where all that was lent has been lost."""
        deadline = self._broker.clock.monotonic() + wait
        if wait <= 0:
            self._dry.clear()  # who does not wait would miss what was committed before this process has heard of it
        while True:
            self._check()
            self.wake.clear()
            if self.stale:
                await self.rebalance()
                self._check()
            if lent := await self._lend(limit):
                return lent
            left = deadline - self._broker.clock.monotonic()
            if left <= 0:
                return []
            self.waiting = True
            if not await self._broker.clock.wait(self.wake, min(left, self._until_due())):
                self._dry.clear()
            self.waiting = False

    def hear(self, topics: Collection[int] | None = None) -> None:
        """These topics have grown, or perhaps all, or there are records of others to lend."""
        self._dry = set() if topics is None else self._dry.difference(topics)
        self.wake.set()

    async def _lend_log(self, feed: Feed, limit: int) -> Sequence[Delivery]:
        while True:
            rows = self._next_rows(feed, limit)
            if not rows:
                self._dry.add(feed.topic)
                return []
            self._weigh(rows, limit, BODY)
            if feed.ended and not self._weight and len(rows) < READ // LIGHT:
                self._dry.add(feed.topic)
            last = rows[-1][0]
            if feed.read_to or feed.early or feed.held:
                rows = await self._sift(feed, rows)
            loans, feed.shape = self._broker.lend(feed.name, rows, feed.shape, FIRST)
            feed.lent.update(zip(map(RECEIPT, loans), loans, strict=True))
            feed.cursor = last
            self._broker.lent.write(feed.id, [part for part in self._mine.parts if part not in feed.read_to], last)
            if loans:
                return loans

    def _next_rows(self, feed: Feed, limit: int) -> list[Any]:
        """Read on: in the order of the file where the topic is much of it, which is faster, else by the index."""
        if feed.dense:
            window = (*feed.shape.likely, feed.topic, feed.cursor, feed.cursor + 4 * limit, limit)
            rows = self._broker.read(SCAN.format(parts=self._mine.sql), window, some)
            feed.dense = len(rows) == limit
            if rows:
                feed.ended = False
                return rows
        values = (*feed.shape.likely, feed.topic, feed.cursor, limit)
        rows = self._broker.read(FETCH.format(parts=self._mine.sql), values, some)
        feed.ended = len(rows) < limit
        feed.dense = len(rows) == limit and rows[-1][0] - rows[0][0] < 4 * limit
        return rows

    async def _sift(self, feed: Feed, rows: Sequence[Any]) -> list[Any]:
        """Leave out what was read or settled before, and put what waits behind a retried one of its key in line."""
        read_to, early, held = feed.read_to, feed.early, feed.held
        fresh = [row for row in rows if row[0] > read_to.get(row[1], 0) and row[0] not in early]
        if read_to and rows[-1][0] >= max(read_to.values()):
            feed.read_to = {}
        feed.early -= {row[0] for row in rows}
        while waiting := [row for row in fresh if row[4] in held]:  # while these are parked, more keys may be held back
            parked = {row[0] for row in waiting}
            fresh = [row for row in fresh if row[0] not in parked]
            await self._park(feed, waiting)
        return fresh

    async def _park(self, feed: Feed, rows: Sequence[Any]) -> None:
        values = [(feed.id, row[0], row[1], HELD, 0, 0.0, row[4]) for row in rows]
        keys = {row[4] for row in rows}
        mine = self._mine

        def park(connection: Connection) -> None:
            self._fence(connection, mine)
            connection.executemany(PARK, values)
            for key in keys:
                connection.execute(RELEASE_NEXT, {"feed": feed.id, "key": key})

        await self._run(park)
        feed.held.update(keys)
        self._look(feed)

    async def _due(self, feed: Feed, state: int, most: int) -> list[Loan]:
        sql = EXCEPTIONS.format(parts=self._mine.sql.replace("part", "a.part"))
        rows = self._broker.read(sql, (feed.id, state, self._now(), most), some)
        if not rows:
            self._look(feed)
        return self._broker.deliveries(feed.name, [(row[0], *row[2:]) for row in rows], [row[1] for row in rows])

    async def _mark(self, feed: Feed, loans: Sequence[Loan]) -> tuple[set[int], Callable[[], None]]:
        marked = await self._run(partial(self._mark_lent, feed=feed, loans=loans, mine=self._mine))
        return marked, partial(self._look, feed)

    def _mark_lent(self, connection: Connection, feed: Feed, loans: Sequence[Loan], mine: Mine) -> set[int]:
        self._fence(connection, mine)
        return {
            loan.receipt for loan in loans if connection.execute(LEND, (loan.attempt, feed.id, loan.receipt)).rowcount
        }

    def _look(self, feed: Feed) -> None:
        """See what exceptions there are and when the next is due."""
        states = dict(self._broker.read(STATES.format(parts=self._mine.sql), (feed.id,)))
        feed.suspects = SUSPECT in states
        feed.due = min(states.values(), default=None)

    # -- settling

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """See Subscription.ack. With `tx`, only a sequence that is empty now is read when that commits."""
        mine, cursors = self._mine, {feed.id: feed.cursor for feed in self.feeds.values()}
        plan, known = self._plan(deliveries, cursors)
        alone = tx is None  # the step must not hold the unit that holds it: such a cycle waits for the collector

        def step(connection: Connection) -> None:
            nonlocal plan, known
            if not plan and deliveries:
                plan, known = self._plan(deliveries, cursors)
            if not (known or alone):
                raise self._strange()
            if plan:
                self._fence(connection, mine)
                for settling in plan:
                    settle(connection, settling, mine)

        if tx is None:
            await self._run(step)
            self._settled(plan)
        else:
            tx.add(step)
            tx.after(lambda: self._settled(plan))

    def _release(self, settling: Settling, keys: set[str | None]) -> None:
        feed = settling.feed
        feed.held -= {key for key in keys if key is not None and not self._broker.read(STILL_HELD, (feed.id, key))}
        self._look(feed)

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See Subscription.nack."""
        due = self._now() + delay if delay > 0 else 0.0
        found = self._withdraw(deliveries)
        if not found.again:
            return
        await self._run(partial(self._hold, found=found, due=due, mine=self._mine))
        self._end(found.ended)
        for feed in self.feeds.values():
            self._look(feed)
        self.wake.set()

    def _hold(self, connection: Connection, *, found: Withdrawal, due: float, mine: Mine) -> None:
        self._fence(connection, mine)
        first: dict[tuple[int, str], int] = {}
        for feed, delivery, part in found.again:
            key, pos = delivery.record.key, delivery.receipt
            connection.execute(AGAIN, (feed.id, pos, part, delivery.attempt, due, key))
            if key is not None:
                first[feed.id, key] = min(pos, first.get((feed.id, key), pos))
        waiting = [(feed.id, loan.receipt, loan.part, HELD, 0, 0.0, loan.record.key) for feed, loan in found.behind]
        connection.executemany(PARK, waiting)
        connection.executemany(HOLD_LATER, [(*of, pos) for of, pos in first.items()])

    # -- ownership

    def _fence(self, connection: Connection, mine: Mine) -> None:
        owned = connection.execute(OWNS.format(parts=mine.sql), (self.group, mine.member)).fetchone()[0]
        if owned != len(mine.parts):
            raise self._lost()

    async def _run(self, step: Callable[[Connection], Any]) -> Any:
        self._check_open()
        return await self._broker.run(step)

    async def join(self) -> None:
        """Become a member, with a new id, and claim what is free, in one commit."""
        lease = self._broker.clock.monotonic() + self._broker.lease
        group, values = self.group, (self.group, self._broker.process.name, lease)

        def enter(
            connection: Connection,
        ) -> list[int]:  # it sets the id itself: who is cancelled meanwhile has to leave
            self.member = connection.execute(membership.JOIN, values).lastrowid or 0
            return membership.balance(connection, group, self.member)

        self._crowded = self.stale = False
        self._take(await self._broker.run(enter))

    async def _rebalance(self) -> None:
        members = [id for (id,) in self._broker.read(membership.MEMBERS_OF, (self.group,))]
        owned = [part for (part,) in self._broker.read(membership.OWNED, (self.group, self.member))]
        if self._void or self.member not in members or owned != self._mine.parts:
            await self._lose()
            return
        want = membership.share(members, self.member)
        self._crowded = len(owned) > want
        self.stale = self._crowded
        if self._crowded and self.idle:
            await self._give_up(owned[want:])
        elif len(owned) < want:
            await self._claim()

    async def _leave(self, member: Callable[[], int]) -> None:
        lent = self._broker.lent
        await self._broker.run(lambda connection: membership.hand_over(connection, member(), lent, died=False))

    async def _give_up(self, parts: Sequence[int]) -> None:
        marks = self._marks(parts)
        member, group = self.member, self.group
        self._own([part for part in self._mine.parts if part not in parts])
        self._crowded = self.stale = False
        failpoint.hit("giving_up")

        def release(connection: Connection) -> None:
            connection.executemany(membership.ADVANCE, marks)
            connection.executemany(membership.RELEASE, [(group, part, member) for part in parts])

        await self._broker.run(release)

    def _marks(self, parts: Sequence[int]) -> list[dict[str, int]]:
        """How far these parts are settled."""
        marks = [(watermark(feed.lent, feed.cursor), feed.id) for feed in self.feeds.values()]
        return [{"feed": feed, "part": part, "high": mark} for mark, feed in marks for part in parts]

    async def _claim(self) -> None:
        group, member = self.group, self.member
        self._take(await self._broker.run(lambda c: membership.balance(c, group, member)))

    def _take(self, owned: list[int]) -> None:
        """These parts are ours: read on where they were left."""
        new = [part for part in owned if part not in self._mine.parts]
        if not new:
            return
        failpoint.hit("claimed")
        for feed in self.feeds.values():
            positions = dict(self._broker.read("SELECT part, pos FROM tidings_position WHERE feed = ?", (feed.id,)))
            feed.look_for(owned, positions, self._mine.parts)
            self._broker.lent.write(feed.id, new, feed.cursor)
        self._own(owned)
        for feed in self.feeds.values():
            feed.early, feed.suspects, feed.due = set(), False, None
            if self._broker.read(EXCEPTED, (feed.id,)):
                self._recall(feed)
        self.hear()

    def _recall(self, feed: Feed) -> None:
        """What of the parts is not settled in the order of the log."""
        known = dict(self._broker.read(KNOWN_ABOVE.format(parts=self._mine.sql), (feed.id, feed.cursor)))
        feed.early = known.keys() - feed.lent.keys()
        feed.done_to = max([feed.done_to, *(pos for pos, state in known.items() if state == DONE)])
        feed.held |= {key for (key,) in self._broker.read(HELD_KEYS.format(parts=self._mine.sql), (feed.id,))}
        self._look(feed)

    def _own(self, parts: list[int]) -> None:
        sql = "" if len(parts) == PARTS else f" AND part IN ({','.join(map(str, parts))})"
        self._mine = Mine(parts, sql, self.member)


def settle(connection: Connection, settling: Settling, mine: Mine) -> None:
    """In the transaction: move the position, and keep or drop the rows that say what it cannot."""
    feed = settling.feed
    connection.execute(SETTLE.format(parts=mine.sql), (settling.mark, feed.id, settling.mark))
    if settling.above:
        connection.executemany(PARK, [(*row, 0.0, None) for row in done(settling)])
    if feed.done_to:
        connection.execute(FORGET_DONE.format(parts=mine.sql), (feed.id, settling.mark))
    for pos, key in settling.retried.items():
        connection.execute(KEEP_DONE, (feed.id, pos))
        connection.execute(FORGET, (feed.id, pos))
        connection.execute(RELEASE_NEXT, {"feed": feed.id, "key": key})
