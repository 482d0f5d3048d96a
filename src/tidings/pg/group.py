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

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import psycopg

from tidings import failpoint
from tidings.broker import Delivery
from tidings.embedded.feed import Feed, Loan, watermark
from tidings.embedded.hand import LIGHT, RECEIPT, Hand, Settling, Withdrawal
from tidings.embedded.membership import DONE, HELD
from tidings.pg import lending, membership
from tidings.pg.connection import Connection, Row
from tidings.pg.lending import LOOK, READ, Host, Mine, Outlook, encoded, own
from tidings.pg.schema import PARTS
from tidings.pg.writer import Statement, Step
from tidings.store import Unit

BODY = itemgetter(7)


class Claimed(NamedTuple):
    """A feed when parts were claimed: their positions, and the rows of its exceptions."""

    positions: dict[int, int]
    known: list[Row]
    outlook: Outlook


class Group(Hand[Host, Mine]):
    """A member of a group. Safe for one task that fetches and others that settle."""

    def __init__(self, broker: Host, group: int, name: str, feeds: Sequence[Feed]) -> None:
        super().__init__(broker, group, name, feeds, own([], 0))
        self.unsure = False  # whether to look at the exceptions again, whatever is known of them
        self._parking: set[str] = set()  # keys of which rows are on their way: they stay held
        self._looked = float("-inf")  # when what others may not have told was last looked for

    def _now(self) -> float:
        return self._broker.clock.monotonic()

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
            if self.unsure:
                self.unsure = False
                for feed in self.feeds.values():
                    await self._look(feed)
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
            self._weigh(rows, limit, BODY)
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
        rows = [held(feed, loan) for loan in loans]
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

    async def _due(self, feed: Feed, state: int, most: int) -> list[Loan]:
        values = {"feed": feed.id, "topic": feed.topic, "state": state, "limit": most, "parts": self._mine.array}
        rows = await self._broker.read(lending.EXCEPTIONS, values)
        if not rows:
            await self._look(feed)
        return self._broker.deliveries(feed.name, [row[:8] for row in rows], [row[8] for row in rows])

    async def _mark(self, feed: Feed, loans: Sequence[Loan]) -> tuple[set[int], Callable[[], None]]:
        marked, outlook = await self._run(partial(self._mark_lent, feed=feed, loans=loans, mine=self._mine))
        return marked, partial(self._apply, feed, outlook)

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
                raise self._strange()
            if plan:
                connection.defer(lending.FENCE, (mine.member,), self._held)
                for settling in plan:
                    lending.settle(connection, settling, mine)

        step: Step = settle
        if len(plan) == 1 and lending.simple(plan[0]) and (known or alone):
            step = Statement(lending.SETTLE, lending.moved(plan[0], mine), partial(self._moved, mine=mine))
        if tx is not None:
            tx.add(step)
            tx.after(lambda: self._settled(plan))
        elif plan:
            await self._run(step)
            self._settled(plan)
        else:
            self._check_open()

    def _moved(self, connection: Connection, rows: int, *, mine: Mine) -> None:
        """Where no position was moved: they may have been there already, or the parts are another member's."""
        if not rows:
            self._fence(connection, mine)

    def _release(self, settling: Settling, keys: set[str | None]) -> None:
        settling.feed.held -= {key for key in keys if key is not None} - settling.known["held"] - self._parking
        self._apply(settling.feed, settling.known["outlook"])

    async def nack(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See Subscription.nack."""
        found = self._withdraw(deliveries)
        if not found.again:
            self._check_open()
            return
        outlooks = await self._run(partial(self._hold, found=found, delay=max(delay, 0.0), mine=self._mine))
        self._end(found.ended)
        for feed, outlook in outlooks:
            self._apply(feed, outlook)
        self.wake.set()

    def _hold(
        self, connection: Connection, *, found: Withdrawal, delay: float, mine: Mine
    ) -> list[tuple[Feed, Outlook]]:
        self._fence(connection, mine)
        first: dict[tuple[int, bytes], int] = {}
        for feed, delivery, part in found.again:
            key, pos = delivery.record.key, delivery.receipt
            encoded_key = None if key is None else key.encode()
            values = {"feed": feed.id, "pos": pos, "part": part, "tries": delivery.attempt, "delay": float(delay)}
            connection.run(lending.AGAIN, values | {"key": encoded_key})
            if encoded_key is not None:
                first[feed.id, encoded_key] = min(pos, first.get((feed.id, encoded_key), pos))
        if found.behind:
            connection.run(lending.PARK, lending.parked([held(feed, loan) for feed, loan in found.behind]))
        for of, pos in first.items():
            connection.run(lending.HOLD_LATER, (*of, pos))
        feeds = {feed.id: feed for feed, _, _ in found.again}
        return [(feed, lending.outlook(connection, feed, mine)) for feed in feeds.values()]

    # -- ownership

    def _fence(self, connection: Connection, mine: Mine) -> None:
        """Keep the parts until the transaction ends. Raises Fenced where they are another member's."""
        self._held(connection.run(lending.FENCE, (mine.member,)))

    def _held(self, fence: psycopg.Cursor[Row]) -> None:
        """What came of FENCE. Raises Fenced."""
        if fence.rowcount != 1:
            raise self._lost()

    async def _run(self, step: Step) -> Any:
        self._check_open()
        return await self._broker.run(step)

    async def join(self) -> None:
        """Become a member, with a new id."""
        process, lease = self._broker.process.name, self._broker.lease
        feeds = [feed.id for feed in self.feeds.values()]

        def enter(connection: Connection) -> None:  # it sets the id itself: whoever is cancelled meanwhile has to leave
            self.member = membership.join(connection, self.group, process, lease=lease, feeds=feeds)

        await self._broker.run(enter)
        await self.rebalance()

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


def held(feed: Feed, loan: Loan) -> Row:
    """The row of what waits behind another of its key."""
    return feed.id, loan.receipt, loan.part, HELD, 0, (loan.record.key or "").encode()
