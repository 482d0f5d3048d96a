"""A member of a consumer group on a PostgreSQL log: what it is lent, what it has settled, which parts it owns.

The same as the embedded broker's, over a network: it reads on from its cursor with one statement a batch and remembers
what is lent; `ack` moves the position of its parts up to the first record still lent, in the transaction that it shares
with the effects. What cannot be said by a position is a row in `tidings.ack`: DONE (settled above the position), RETRY
(due later), HELD (behind a retried one of its key), LENT (a retried one that is out), SUSPECT (was out when its member
died). Keys with such rows are `held`: what the log brings of them waits in line as a row of its own.

State lives on the event loop and changes only between awaits. Steps run in the writer's thread: they read snapshots,
never change it, and bring back what is to be known after them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

from tidings import failpoint
from tidings.broker import Delivery
from tidings.embedded.feed import TOGETHER, TURN, Feed, Loan, suspects, watermark
from tidings.embedded.membership import DONE, HELD, RETRY, SUSPECT
from tidings.errors import Closed, Fenced, StorageError
from tidings.pg import lending, membership
from tidings.pg.connection import Connection, Row
from tidings.pg.lending import LOOK, READ, Host, Mine, Outlook, Settling, behind, encoded, own
from tidings.pg.schema import PARTS
from tidings.pg.writer import Statement, Step
from tidings.store import Unit

RECEIPT = attrgetter("receipt")
OUT, LIGHT = 32 << 20, 16 << 10
"""Bytes of bodies: so much may be out, about; a body that small is not weighed."""


class Claimed(NamedTuple):
    """A feed when parts were claimed: their positions, and the rows of its exceptions."""

    positions: dict[int, int]
    known: list[Row]
    outlook: Outlook


class Group:
    """A member of a group. Safe for one task that fetches and others that settle."""

    def __init__(self, broker: Host, group: int, name: str, feeds: Sequence[Feed]) -> None:
        self.name = name
        self.group = group
        self.member = 0
        self.feeds = {feed.topic: feed for feed in feeds}
        self.stale = True  # whether the membership may have changed
        self.unsure = False  # whether to look at the exceptions again, whatever is known of them
        self.wake = asyncio.Event()
        self.topics = self.feeds.keys()
        self._broker = broker
        self._mine = own([], 0)
        self._crowded = False  # whether parts are to be given up, for which nothing may be lent
        self._alone = False  # whether suspects are out, beside which nothing may be
        self._void = False  # whether to give up all that is lent
        self._unseen: Sequence[Delivery] = ()  # lent by a fetch that was cancelled before it could tell
        self._parking: set[str] = set()  # keys of which rows are on their way: they stay held
        self._fenced = False
        self._closed = False
        self._dry: set[int] = set()  # topics of which all that is in the log has been read
        self._looked = float("-inf")  # when what others may not have told was last looked for
        self._turn = 0
        self._weight = 0  # bytes of a body, of late, where they are large

    # -- lending

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Subscription.fetch; raises Fenced once where all that was lent has been lost."""
        deadline = self._broker.clock.monotonic() + wait
        told = wait > 0  # who does not wait would miss what was committed before this process has heard of it
        while True:
            self._check()
            self.wake.clear()
            self._trust(told)
            if self.stale:
                await self.rebalance()
                self._check()
            if lent := await self._lend(limit):
                self._check()
                return lent
            left = deadline - self._broker.clock.monotonic()
            if left <= 0:
                return []
            told = await self._broker.clock.wait(self.wake, min(left, LOOK, self._until_due()))

    def hear(self, topics: AbstractSet[int] | None = None) -> None:
        """These topics have grown, or perhaps all."""
        for topic in self.topics if topics is None else self.topics & topics:
            self.feeds[topic].ended = False  # a read that is under way may have come too early
            self._dry.discard(topic)
        self.wake.set()

    def _trust(self, told: bool) -> None:
        """Where nobody has told what has grown, or not for long, look at all: that others tell is a hint."""
        now = self._broker.clock.monotonic()
        if not told or now - self._looked >= LOOK:
            self._dry.clear()
            self._looked = now

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
        return 3600.0 if due is None else max(due - self._broker.clock.monotonic(), soonest)

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
        if self.unsure:
            self.unsure = False
            for feed in feeds:
                await self._look(feed)
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

    def _weigh(self, rows: Sequence[Row], limit: int) -> None:
        """See how large bodies are, if so large that not all could be read, or were so before."""
        if self._weight or len(rows) < limit:
            weight = sum(len(row[7]) for row in rows) // len(rows)
            self._weight = weight if weight > LIGHT else 0

    async def _lend_log(self, feed: Feed, limit: int) -> Sequence[Delivery]:
        while True:
            mine = self._mine
            feed.ended = True
            values = {"topic": feed.topic, "after": feed.cursor, "limit": limit, "feed": feed.id, "member": mine.member}
            if len(mine.parts) == PARTS:
                rows = await self._broker.read(lending.LEND_ALL, values)
            else:
                rows = await self._broker.read(lending.LEND_SOME, values | {"parts": mine.array})
            if not rows:
                self._see_end(feed)
                return []
            self._weigh(rows, limit)
            last = rows[-1][0]
            loans = self._broker.deliveries(feed.name, rows)
            if feed.read_to or feed.early or feed.held:
                loans = await self._sift(feed, loans, last)
            feed.lent.update(zip(map(RECEIPT, loans), loans, strict=True))
            feed.cursor = last
            if not self._weight and len(rows) < min(limit, READ // LIGHT):
                self._see_end(feed)
            if loans:
                return loans

    def _see_end(self, feed: Feed) -> None:
        """All of it has been read, unless more was heard of meanwhile."""
        if feed.ended:
            self._dry.add(feed.topic)

    async def _sift(self, feed: Feed, loans: Sequence[Loan], last: int) -> list[Loan]:
        """Leave out what was read or settled before, and put what waits behind a retried one of its key in line."""
        read_to, early, held = feed.read_to, feed.early, feed.held
        fresh = [loan for loan in loans if loan.receipt > read_to.get(loan.part, 0) and loan.receipt not in early]
        while waiting := [loan for loan in fresh if loan.record.key in held]:  # meanwhile more keys may be held back
            parked = {loan.receipt for loan in waiting}
            fresh = [loan for loan in fresh if loan.receipt not in parked]
            await self._park(feed, waiting)
        if read_to and last >= max(read_to.values()):
            feed.read_to = {}
        feed.early -= {loan.receipt for loan in loans}
        return fresh

    async def _park(self, feed: Feed, loans: Sequence[Loan]) -> None:
        keys = {loan.record.key for loan in loans if loan.record.key is not None}
        rows = [(feed.id, loan.receipt, loan.part, HELD, 0, loan.record.key.encode()) for loan in loans
                if loan.record.key is not None]  # fmt: skip
        mine = self._mine

        def park(connection: Connection) -> Outlook:
            self._fence(connection, mine)
            connection.run(lending.PARK, lending.parked(rows))
            connection.run(lending.RELEASE_NEXT, {"feed": feed.id, "keys": encoded(keys)})
            return lending.outlook(connection, feed, mine)

        self._parking |= keys
        outlook = await self._run(park)
        self._parking -= keys
        feed.held.update(keys)
        self._apply(feed, outlook)

    async def _lend_exceptions(self, feeds: Sequence[Feed], limit: int) -> Sequence[Delivery]:
        """Those that are due; suspects with nothing else out, and none of another group of this process."""
        now = self._broker.clock.monotonic()
        lone = any(feed.suspects for feed in feeds)
        if lone and (not self.idle or self._broker.suspicious(self)):
            return []
        for feed in feeds:
            if feed.due is None or feed.due > now or (lone and not feed.suspects):
                continue
            state, most = (SUSPECT, min(limit, TOGETHER)) if lone else (RETRY, limit)
            values = {"feed": feed.id, "topic": feed.topic, "state": state, "limit": most, "parts": self._mine.array}
            rows = await self._broker.read(lending.EXCEPTIONS, values)
            if not rows:
                await self._look(feed)
                continue
            self._weigh(rows, most)
            if lone:
                self._alone = True
                rows = _together(rows)
            return await self._lend_again(feed, rows)
        return []

    async def _lend_again(self, feed: Feed, rows: Sequence[Row]) -> Sequence[Delivery]:
        loans = self._broker.deliveries(feed.name, [row[:8] for row in rows], [row[8] for row in rows])
        again = {loan.receipt: loan for loan in loans}
        feed.out |= again
        self._unseen = loans
        marked: set[int] = set()
        try:
            marked, outlook = await self._run(partial(self._mark_lent, feed=feed, loans=loans, mine=self._mine))
        except asyncio.CancelledError:
            marked = set(again)
            raise
        finally:  # one that was put behind another of its key meanwhile is not lent
            feed.out = {pos: loan for pos, loan in feed.out.items() if pos in marked or again.get(pos) is not loan}
            self._unseen = [delivery for delivery in self._unseen if delivery.receipt in marked]
        failpoint.hit("lent_again")
        self._apply(feed, outlook)
        lent, self._unseen = self._unseen, ()
        return lent

    def _mark_lent(
        self, connection: Connection, feed: Feed, loans: Sequence[Loan], mine: Mine
    ) -> tuple[set[int], Outlook]:
        self._fence(connection, mine)
        positions, tries = [loan.receipt for loan in loans], [loan.attempt for loan in loans]
        marked = connection.run(lending.MARK_LENT, (positions, tries, feed.id)).fetchall()
        return {pos for (pos,) in marked}, lending.outlook(connection, feed, mine)

    async def _look(self, feed: Feed) -> None:
        """See what exceptions there are and when the next is due."""
        self._apply(feed, lending.seen(await self._broker.read(lending.STATES, (feed.id, self._mine.array))))

    def _apply(self, feed: Feed, outlook: Outlook) -> None:
        feed.suspects = outlook.suspects
        feed.due = None if outlook.due is None else self._broker.clock.monotonic() + outlook.due

    # -- settling

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """See Subscription.ack. With `tx`, only a sequence that is empty now is read when that commits."""
        mine, cursors = self._mine, {feed.id: feed.cursor for feed in self.feeds.values()}
        plan, known = self._plan(deliveries, cursors)
        alone = tx is None  # the step must not hold the unit that holds it: such a cycle waits for the collector

        def settle(connection: Connection) -> None:
            nonlocal plan, known
            if not plan and deliveries:
                plan, known = self._plan(deliveries, cursors)
            if not (known or alone):
                self._void = self.stale = True
                raise Fenced(
                    f"{self.name} no longer holds some of the records that it settles; nothing of this is kept"
                )
            if plan:
                connection.defer(lending.FENCE, (mine.member,), self._held)
                for settling in plan:
                    lending.settle(connection, settling, mine)

        step: Step = settle
        if len(plan) == 1 and plan[0].simple and (known or alone):
            step = Statement(lending.SETTLE, plan[0].values(mine), partial(self._moved, mine=mine))
        if tx is not None:
            tx.add(step)
            tx.after(lambda: self._settled(plan))
        elif plan:
            await self._run(step)
            self._settled(plan)
        else:
            self._closed_check()

    def _moved(self, connection: Connection, rows: int, *, mine: Mine) -> None:
        """Where no position was moved: they may have been there already, or the parts are another member's."""
        if not rows:
            self._fence(connection, mine)

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
                above: list[Row] = []
                if (last := max(acked | retried)) > mark:
                    feed.done_to = max(feed.done_to, last)
                    above = [(feed.id, pos, lent[pos].part, DONE, 1, None) for pos in acked if pos > mark]
                plan.append(Settling(feed, acked, {pos: feed.out[pos].record.key for pos in retried}, mark, above, {}))
        return plan, known == len(receipts)

    def _settled(self, plan: Sequence[Settling]) -> None:
        """The acknowledgement is durable: forget what was lent."""
        for settling in plan:
            feed = settling.feed
            if len(settling.acked) >= len(feed.lent):
                feed.lent = {pos: loan for pos, loan in feed.lent.items() if pos not in settling.acked}
            else:
                for pos in settling.acked:
                    feed.lent.pop(pos, None)
            if settling.mark >= feed.done_to:
                feed.done_to = 0
            gone = {key for pos, key in settling.retried.items() if feed.out.pop(pos, None) is not None}
            if gone:
                keys = {key for key in gone if key is not None}
                feed.held -= keys - settling.known["held"] - self._parking
                self._apply(feed, settling.known["outlook"])
                self.wake.set()
        if self._weight or self._crowded or self._alone or any(feed.suspects for feed in self.feeds.values()):
            self.wake.set()

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See Subscription.nack."""
        topics = {feed.name: feed for feed in self.feeds.values()}
        again: list[tuple[Feed, Delivery, int]] = []
        withdrawn: list[Row] = []
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
                later = behind(feed.lent, key, pos)
                withdrawn += [(feed.id, loan.receipt, loan.part, HELD, 0, key.encode()) for loan in later]
                later += behind(feed.out, key, pos)
                ended += [(feed, loan) for loan in later]
                receipts = {loan.receipt for loan in later}
                self._unseen = [unseen for unseen in self._unseen if unseen.receipt not in receipts]
        if not again:
            self._closed_check()
            return
        hold = partial(self._hold, again=again, withdrawn=withdrawn, delay=max(delay, 0.0), mine=self._mine)
        outlooks = await self._run(hold)
        failpoint.hit("held_back")
        for feed, loan in ended:
            for loans in (feed.lent, feed.out):
                if loans.get(loan.receipt) is loan:
                    del loans[loan.receipt]
        for feed, outlook in outlooks:
            self._apply(feed, outlook)
        self.wake.set()

    def _hold(
        self, connection: Connection, *, again: Sequence[tuple[Feed, Delivery, int]], withdrawn: Sequence[Row],
        delay: float, mine: Mine,
    ) -> list[tuple[Feed, Outlook]]:  # fmt: skip
        self._fence(connection, mine)
        first: dict[tuple[int, bytes], int] = {}
        for feed, delivery, part in again:
            key, pos = delivery.record.key, delivery.receipt
            encoded_key = None if key is None else key.encode()
            values = {"feed": feed.id, "pos": pos, "part": part, "tries": delivery.attempt, "delay": float(delay)}
            connection.run(lending.AGAIN, values | {"key": encoded_key})
            if encoded_key is not None:
                first[feed.id, encoded_key] = min(pos, first.get((feed.id, encoded_key), pos))
        if withdrawn:
            connection.run(lending.PARK, lending.parked(withdrawn))
        for of, pos in first.items():
            connection.run(lending.HOLD_LATER, (*of, pos))
        feeds = {feed.id: feed for feed, _, _ in again}
        return [(feed, lending.outlook(connection, feed, mine)) for feed in feeds.values()]

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """Nothing to do: the lease is the member's, and the broker renews it."""

    # -- ownership

    def _fence(self, connection: Connection, mine: Mine) -> None:
        """Keep the parts until the transaction ends. Raises Fenced where they are another member's."""
        self._held(connection.run(lending.FENCE, (mine.member,)))

    def _held(self, fence: psycopg.Cursor[Row]) -> None:
        """What came of FENCE. Raises Fenced."""
        if fence.rowcount != 1:
            self._void = self.stale = True
            raise Fenced(f"{self.name} lost its parts to another member; nothing of this is kept")

    def _closed_check(self) -> None:
        if self._closed:
            raise Closed(f"the subscription of {self.name} is closed")

    async def _run(self, step: Step) -> Any:
        self._closed_check()
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
        """Become a member, with a new id."""
        process, lease = self._broker.process.name, self._broker.lease
        feeds = [feed.id for feed in self.feeds.values()]

        def enter(connection: Connection) -> None:  # it sets the id itself: whoever is cancelled meanwhile has to leave
            self.member = membership.join(connection, self.group, process, lease=lease, feeds=feeds)

        await self._broker.run(enter)
        await self.rebalance()

    async def rebalance(self) -> None:
        """Give up parts beyond the fair share when nothing is lent, and claim free ones; again where that fails."""
        try:
            await self._rebalance()
        except BaseException:
            self.stale = True
            raise

    async def _rebalance(self) -> None:
        self.stale = False
        values = {"group": self.group, "member": self.member}
        members, owned = membership.standing((await self._broker.read(membership.STANDING, values))[0])
        if self._void or self.member not in members or owned != self._mine.parts:
            await self._lose()
            return
        want = membership.share(members, self.member)
        self._crowded = len(owned) > want
        if self._crowded:
            self.stale = True
            if self.idle:
                await self._give_up(owned[want:])
        elif len(owned) < want:
            await self._claim()

    async def _lose(self) -> None:
        """Another member took over: nothing that was lent counts any more. Start again as a new member."""
        self._fenced, self._void, self._alone, self._unseen = not self.idle, False, False, ()
        old, self._mine = self.member, own([], 0)
        for feed in self.feeds.values():
            feed.lent.clear()
            feed.out.clear()
        await self._leave(lambda: old)
        await self.join()

    async def _leave(self, member: Callable[[], int]) -> None:
        group = self.group
        await self._broker.run(lambda connection: membership.hand_over(connection, group, member(), died=False))

    async def _give_up(self, parts: Sequence[int]) -> None:
        marks = [(watermark(feed.lent, feed.cursor), feed.id) for feed in self.feeds.values()]
        member, group = self.member, self.group
        self._mine = own([part for part in self._mine.parts if part not in parts], member)
        self._crowded = self.stale = False
        failpoint.hit("giving_up")

        def release(connection: Connection) -> None:
            connection.run(membership.TURN, (group,))
            for mark, feed in marks:
                connection.run(membership.ADVANCE, (mark, feed, list(parts), mark))
            connection.run(membership.RELEASE, (group, list(parts), member))

        await self._broker.run(release)

    async def _claim(self) -> None:
        group, member, feeds = self.group, self.member, list(self.feeds.values())

        def claim(connection: Connection) -> tuple[list[int], list[Claimed]]:
            owned, positions = membership.claim(connection, group, member, [feed.id for feed in feeds])
            mine = own(owned, member)
            known = [connection.run(lending.KNOWN, (feed.id, owned)).fetchall() for feed in feeds]
            return owned, [
                Claimed(positions[feed.id], rows, lending.outlook(connection, feed, mine))
                for feed, rows in zip(feeds, known, strict=True)
            ]

        owned, claimed = await self._broker.run(claim)
        new = set(owned) - set(self._mine.parts)
        if not new:
            return
        failpoint.hit("claimed")
        for feed, found in zip(feeds, claimed, strict=True):
            feed.look_for(owned, found.positions, self._mine.parts)
            above = {pos: state for pos, state, _ in found.known if pos > feed.cursor}
            feed.early = above.keys() - feed.lent.keys()
            feed.done_to = max([feed.done_to, *(pos for pos, state in above.items() if state == DONE)])
            feed.held |= {key.decode() for _, state, key in found.known if state != DONE and key is not None}
            self._apply(feed, found.outlook)
        self._mine = own(owned, member)
        self.hear()

    async def close(self) -> None:
        """See Subscription.close."""
        if self._closed:
            return
        self._closed = True
        self.wake.set()
        self._broker.forget(self)
        with contextlib.suppress(StorageError, Closed):  # a lease that could not be given back runs out
            await self._leave(lambda: self.member)


def _together(rows: list[Row]) -> list[Row]:
    """Those of the suspects that may be lent together."""
    count = len(suspects([(row[0], row[8]) for row in rows]))
    return rows[:count]
