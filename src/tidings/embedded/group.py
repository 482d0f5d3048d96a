"""A member of a consumer group on the embedded log: what it is lent, what it has settled, which parts it owns.

It reads on from its cursor with one short SELECT a batch and remembers what is lent; `ack` moves the position of its
parts up to the first record still lent, in the transaction that it shares with the effects. What cannot be said by a
position is a row in `tidings_ack`: DONE (settled above the position), RETRY (due later), HELD (behind a retried one
of its key), LENT (a retried one that is out), SUSPECT (was out when its member died). Keys with such rows
are `held`: what the log brings of them waits in line as a row of its own.

State lives on the event loop. Steps run in the writer's thread: they read snapshots and never change it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any

from tidings import failpoint
from tidings.broker import Delivery
from tidings.embedded import membership
from tidings.embedded.database import Connection
from tidings.embedded.feed import (
    AGAIN,
    BODY,
    EXCEPTED,
    EXCEPTIONS,
    FETCH,
    HELD_KEYS,
    HOLD_LATER,
    KNOWN_ABOVE,
    LEND,
    LIGHT,
    OUT,
    OWNS,
    PARK,
    READ,
    RECEIPT,
    RELEASE_NEXT,
    SCAN,
    STATES,
    STILL_HELD,
    TOGETHER,
    TURN,
    Feed,
    Host,
    Loan,
    Mine,
    Settling,
    settle,
    some,
    suspects,
    watermark,
)
from tidings.embedded.membership import DONE, HELD, PARTS, RETRY, SUSPECT
from tidings.errors import Closed, Fenced, StorageError
from tidings.store import Unit

Again = tuple[Feed, Delivery, int]
Withdrawn = tuple[Feed, int, int, str]


class Group:
    """A member of a group. Safe for one task that fetches and others that settle."""

    def __init__(self, broker: Host, group: int, name: str, feeds: Sequence[Feed]) -> None:
        self.name = name
        self.group = group
        self.member = 0
        self.feeds = {feed.topic: feed for feed in feeds}
        self.stale = True  # whether the membership may have changed
        self.wake = asyncio.Event()
        self.waiting = False  # whether a fetch waits for more
        self.topics = self.feeds.keys()
        self._broker = broker
        self._mine = Mine([])
        self._crowded = False  # whether parts are to be given up, for which nothing may be lent
        self._alone = False  # whether suspects are out, beside which nothing may be
        self._void = False  # whether to give up all that is lent
        self._unseen: Sequence[Delivery] = ()  # lent by a fetch that was cancelled before it could tell
        self._fenced = False
        self._closed = False
        self._dry: set[int] = set()  # topics of which all that is in the log has been read
        self._turn = 0
        self._weight = 0  # bytes of a body, of late, where they are large

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

    def _check(self) -> None:
        if self._closed:
            raise Closed(f"the subscription of {self.name} is closed")
        self._broker.check()
        if self._fenced:
            self._fenced = False
            raise Fenced(f"{self.name} lost its parts to another member; what it was lent comes again")

    def _until_due(self) -> float:
        due = min((feed.due for feed in self.feeds.values() if feed.due is not None), default=None)
        soonest = TURN if any(feed.suspects for feed in self.feeds.values()) else 0.001
        return 3600.0 if due is None else max(due - self._broker.steady(), soonest)

    async def _lend(self, limit: int) -> Sequence[Delivery]:
        if self._unseen:
            lent, self._unseen = self._unseen[:limit], self._unseen[limit:]
            return lent
        if not self._mine.parts or self._crowded or (self._alone and not self.idle):
            return []
        self._alone = False
        if not (limit := self._room(limit)):
            return []
        feeds = list(self.feeds.values())
        if any(feed.due is not None for feed in feeds):
            lent = await self._lend_exceptions(feeds, limit)
            if lent or any(feed.suspects for feed in feeds):
                return lent
        self._turn += 1
        for index in range(len(feeds)):
            feed = feeds[(self._turn + index) % len(feeds)]
            if feed.topic not in self._dry and (lent := await self._lend_log(feed, limit)):
                return lent
        return []

    def _room(self, limit: int) -> int:
        """How many more may be lent: fewer where bodies are large, so that what is out does not fill the memory."""
        if not self._weight:
            return limit
        out = sum(len(feed.lent) + len(feed.out) for feed in self.feeds.values())
        return min(limit, max(OUT // self._weight - out, 0 if out else 1))

    def _weigh(self, rows: Sequence[Any], limit: int) -> None:
        """See how large bodies are, if so large that not all could be read, or were so before."""
        if self._weight or len(rows) < limit:
            weight = sum(map(len, map(BODY, rows))) // len(rows)
            self._weight = weight if weight > LIGHT else 0

    async def _lend_log(self, feed: Feed, limit: int) -> Sequence[Delivery]:
        while True:
            rows = self._next_rows(feed, limit)
            if not rows:
                self._dry.add(feed.topic)
                return []
            self._weigh(rows, limit)
            if feed.ended and not self._weight and len(rows) < READ // LIGHT:
                self._dry.add(feed.topic)
            last = rows[-1][0]
            if feed.read_to or feed.early or feed.held:
                rows = await self._sift(feed, rows)
            loans = self._broker.deliveries(feed.name, rows)
            feed.lent.update(zip(map(RECEIPT, loans), loans, strict=True))
            feed.cursor = last
            self._broker.lent.write(feed.id, [part for part in self._mine.parts if part not in feed.read_to], last)
            if loans:
                return loans

    def _next_rows(self, feed: Feed, limit: int) -> list[Any]:
        """Read on: in the order of the file where the topic is much of it, which is faster, else by the index."""
        if feed.dense:
            window = (feed.topic, feed.cursor, feed.cursor + 4 * limit, limit)
            rows = self._broker.read(SCAN.format(parts=self._mine.sql), window, some)
            feed.dense = len(rows) == limit
            if rows:
                feed.ended = False
                return rows
        rows = self._broker.read(FETCH.format(parts=self._mine.sql), (feed.topic, feed.cursor, limit), some)
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

    async def _lend_exceptions(self, feeds: Sequence[Feed], limit: int) -> Sequence[Delivery]:
        """Those that are due; suspects with nothing else out, and none of another group of this process."""
        now = self._broker.steady()
        lone = any(feed.suspects for feed in feeds)
        if lone and (not self.idle or self._broker.suspicious(self)):
            return []
        for feed in feeds:
            if feed.due is None or feed.due > now or (lone and not feed.suspects):
                continue
            state, most = (SUSPECT, min(limit, TOGETHER)) if lone else (RETRY, limit)
            sql = EXCEPTIONS.format(parts=self._mine.sql.replace("part", "a.part"))
            rows = self._broker.read(sql, (feed.id, state, now, most), some)
            if not rows:
                self._look(feed)
                continue
            self._weigh(rows, most)
            self._alone = lone
            return await self._lend_again(feed, suspects(rows) if lone else rows)
        return []

    async def _lend_again(self, feed: Feed, rows: Sequence[Any]) -> Sequence[Delivery]:
        loans = self._broker.deliveries(feed.name, [(row[0], *row[2:]) for row in rows], [row[1] for row in rows])
        again = {loan.receipt: loan for loan in loans}
        feed.out |= again
        self._unseen = loans
        marked: set[int] = set()
        try:
            marked = await self._run(partial(self._mark_lent, feed=feed, rows=rows, mine=self._mine))
        except asyncio.CancelledError:
            marked = set(again)
            raise
        finally:  # one that was put behind another of its key meanwhile is not lent
            feed.out = {pos: loan for pos, loan in feed.out.items() if pos in marked or again.get(pos) is not loan}
            self._unseen = [delivery for delivery in self._unseen if delivery.receipt in marked]
        failpoint.hit("lent_again")
        self._look(feed)
        lent, self._unseen = self._unseen, ()
        return lent

    def _mark_lent(self, connection: Connection, feed: Feed, rows: Sequence[Any], mine: Mine) -> set[int]:
        self._fence(connection, mine)
        return {row[0] for row in rows if connection.execute(LEND, (row[1], feed.id, row[0])).rowcount}

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
                self._void = self.stale = True
                raise Fenced(
                    f"{self.name} no longer holds some of the records that it settles; nothing of this is kept"
                )
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

    def _plan(self, deliveries: Sequence[Delivery], cursors: dict[int, int]) -> tuple[list[Settling], bool]:
        """What acknowledging these means for each feed, and whether all of them are lent."""
        receipts = {delivery.receipt for delivery in deliveries}
        plan = []
        known = 0
        for feed in self.feeds.values():
            lent = feed.lent.copy()
            acked, retried = receipts & lent.keys(), receipts & feed.out.keys()
            if acked or retried:
                known += len(acked) + len(retried)
                mark = watermark(lent, cursors[feed.id], acked)
                above = []
                if (last := max(acked | retried)) > mark:
                    feed.done_to = max(feed.done_to, last)
                    above = [(feed.id, pos, lent[pos].part, DONE, 1, 0.0, None) for pos in acked if pos > mark]
                plan.append(Settling(feed, acked, {pos: feed.out[pos].record.key for pos in retried}, mark, above))
        return plan, known == len(receipts)

    def _settled(self, plan: Sequence[Settling]) -> None:
        """The acknowledgement is durable: forget what was lent."""
        for settling in plan:
            feed = settling.feed
            if len(settling.acked) >= len(feed.lent):
                feed.lent = {pos: loan for pos, loan in feed.lent.items() if pos not in settling.acked}
            else:
                deque(map(feed.lent.pop, settling.acked, repeat(None)), maxlen=0)
            if settling.mark >= feed.done_to:
                feed.done_to = 0
            gone = {key for pos, key in settling.retried.items() if feed.out.pop(pos, None) is not None}
            if gone:
                self._release(feed, gone)
        if self._weight or self._crowded or self._alone or any(feed.suspects for feed in self.feeds.values()):
            self.wake.set()

    def _release(self, feed: Feed, keys: set[str | None]) -> None:
        """Rows of these keys are gone: those without any more are not held."""
        feed.held -= {key for key in keys if key is not None and not self._broker.read(STILL_HELD, (feed.id, key))}
        self._look(feed)
        self.wake.set()

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See Subscription.nack."""
        due = self._broker.steady() + delay if delay > 0 else 0.0
        topics = {feed.name: feed for feed in self.feeds.values()}
        again: list[Again] = []
        withdrawn: list[Withdrawn] = []
        ended: list[tuple[Feed, Loan]] = []  # with the commit; what is lent anew after it is another loan
        for delivery in deliveries:
            feed, pos, key = topics[delivery.record.topic], delivery.receipt, delivery.record.key
            lent = feed.lent.get(pos) or feed.out.get(pos)
            if lent is None:
                continue
            again.append((feed, delivery, lent.part))
            ended.append((feed, lent))
            if key is not None:
                feed.held.add(key)
                later = _behind(feed.lent, key, pos)
                withdrawn += [(feed, loan.receipt, loan.part, key) for loan in later]
                later += _behind(feed.out, key, pos)
                ended += [(feed, loan) for loan in later]
                receipts = {loan.receipt for loan in later}
                self._unseen = [unseen for unseen in self._unseen if unseen.receipt not in receipts]
        if not again:
            return
        await self._run(partial(self._hold, again=again, withdrawn=withdrawn, due=due, mine=self._mine))
        failpoint.hit("held_back")
        for feed, loan in ended:
            for loans in (feed.lent, feed.out):
                if loans.get(loan.receipt) is loan:
                    del loans[loan.receipt]
        for feed in self.feeds.values():
            self._look(feed)
        self.wake.set()

    def _hold(
        self, connection: Connection, *, again: Sequence[Again], withdrawn: Sequence[Withdrawn], due: float, mine: Mine
    ) -> None:
        self._fence(connection, mine)
        first: dict[tuple[int, str], int] = {}
        for feed, delivery, part in again:
            key, pos = delivery.record.key, delivery.receipt
            connection.execute(AGAIN, (feed.id, pos, part, delivery.attempt, due, key))
            if key is not None:
                first[feed.id, key] = min(pos, first.get((feed.id, key), pos))
        connection.executemany(PARK, [(feed.id, pos, part, HELD, 0, 0.0, key) for feed, pos, part, key in withdrawn])
        connection.executemany(HOLD_LATER, [(*of, pos) for of, pos in first.items()])

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """Nothing to do: the lease is the member's, and the broker renews it."""

    # -- ownership

    def _fence(self, connection: Connection, mine: Mine) -> None:
        owned = connection.execute(OWNS.format(parts=mine.sql), (self.group, mine.member)).fetchone()[0]
        if owned != len(mine.parts):
            self._void = self.stale = True
            raise Fenced(f"{self.name} lost its parts to another member; nothing of this is kept")

    async def _run(self, step: Callable[[Connection], Any]) -> Any:
        if self._closed:
            raise Closed(f"the subscription of {self.name} is closed")
        return await self._broker.run(step)

    @property
    def alone(self) -> bool:
        """Whether suspects are out."""
        return self._alone and not self.idle

    @property
    def idle(self) -> bool:
        """Whether nothing is lent."""
        return not any(feed.lent or feed.out for feed in self.feeds.values())

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

    async def rebalance(self) -> None:
        """Give up parts beyond the fair share when nothing is lent, and claim free ones; again where that fails."""
        try:
            await self._rebalance()
        except BaseException:
            self.stale = True
            raise

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

    async def _lose(self) -> None:
        """Another member took over: nothing that was lent counts any more. Start again as a new member."""
        self._fenced, self._void, self._alone, self._unseen = not self.idle, False, False, ()
        old, self._mine = self.member, Mine([])
        for feed in self.feeds.values():
            feed.lent.clear()
            feed.out.clear()
        await self._leave(lambda: old)
        await self.join()

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

    async def close(self) -> None:
        """See Subscription.close."""
        if self._closed:
            return
        self._closed = True
        self.wake.set()
        self._broker.forget(self)
        with contextlib.suppress(StorageError, Closed):  # a lease that could not be given back runs out
            await self._leave(lambda: self.member)


def _behind(loans: Mapping[int, Loan], key: str, pos: int) -> list[Loan]:
    """Those of the key that come after a position."""
    return [loan for loan in loans.values() if loan.record.key == key and loan.receipt > pos]
