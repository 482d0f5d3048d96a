"""What a member of a group has in hand, whether a file keeps the log or PostgreSQL: the same rules, other statements.

What it is lent is remembered here, and what of it is settled; what cannot be lent beside each other, and how much at a
time. A subclass reads and writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat, takewhile
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from tidings import failpoint
from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.embedded.feed import Feed, Loan, watermark
from tidings.embedded.membership import DONE, RETRY, SUSPECT
from tidings.errors import Closed, Fenced, StorageError

VALUE, RECEIPT = attrgetter("record.value"), attrgetter("receipt")
OUT, LIGHT = 32 << 20, 16 << 10
"""Bytes of bodies: so much may be out, about; a body that small is not weighed."""
TOGETHER = 64
"""Suspects of one death are lent so many at a time; what was out at a second one, one at a time."""
TURN = 0.05
"""Seconds after which a group looks again whether its suspects may be lent, where others' are out."""


class Host(Protocol):
    """What it needs of its broker."""

    clock: Clock

    def check(self) -> None:
        """Raises Closed where the broker is not open, or its housekeeping has died."""
        ...

    def suspicious(self, group: Any) -> bool:
        """Whether another group of this process has suspects out: one that kills must not count against theirs."""
        ...

    def forget(self, reader: Any) -> None:
        """The member has left."""
        ...


class Owned(Protocol):
    """What parts it has."""

    @property
    def parts(self) -> list[int]:
        """Their numbers, rising."""
        ...


H = TypeVar("H", bound=Host)
M = TypeVar("M", bound=Owned)


class Settling(NamedTuple):
    """What an acknowledgement means for a feed: how far it is settled now, and which positions are above that.

    `known` is for what is learnt while that is written.
    """

    feed: Feed
    acked: set[int]
    retried: dict[int, str | None]
    mark: int
    above: list[Loan]
    known: dict[str, Any]


class Withdrawal(NamedTuple):
    """What handing back means: what comes again, what waits behind it, and what is not lent any more after that."""

    again: list[tuple[Feed, Delivery, int]]
    behind: list[tuple[Feed, Loan]]
    ended: list[tuple[Feed, Loan]]


class Hand(ABC, Generic[H, M]):
    """A member of a group, without what reads and writes. Safe for one task that fetches and others that settle."""

    def __init__(self, broker: H, group: int, name: str, feeds: Sequence[Feed], nothing: M) -> None:
        self.name = name
        self.group = group
        self.member = 0
        self.feeds = {feed.topic: feed for feed in feeds}
        self.stale = True  # whether the membership may have changed
        self.wake = asyncio.Event()
        self.topics = self.feeds.keys()
        self._broker = broker
        self._nothing = self._mine = nothing
        self._crowded = False  # whether parts are to be given up, for which nothing may be lent
        self._alone = False  # whether suspects are out, beside which nothing may be
        self._void = False  # whether to give up all that is lent
        self._unseen: Sequence[Delivery] = ()  # lent by a fetch that was cancelled before it could tell
        self._fenced = False
        self._closed = False
        self._dry: set[int] = set()  # topics of which all that is in the log has been read
        self._turn = 0
        self._weight = 0  # bytes of a body, of late, where they are large

    # -- what reads and writes

    @abstractmethod
    def _now(self) -> float:
        """By the clock of what is due."""

    @abstractmethod
    async def _lend_log(self, feed: Feed, limit: int) -> Sequence[Delivery]:
        """Read on."""

    @abstractmethod
    async def _due(self, feed: Feed, state: int, most: int) -> list[Loan]:
        """What is due of a state; where that is nothing, see when the next one is."""

    @abstractmethod
    async def _mark(self, feed: Feed, loans: Sequence[Loan]) -> tuple[set[int], Callable[[], None]]:
        """Write that these are lent; returns the positions of which that is true, and what sees to the exceptions."""

    @abstractmethod
    def _release(self, settling: Settling, keys: set[str | None]) -> None:
        """Rows of these keys are gone: those without any more are not held."""

    @abstractmethod
    async def _rebalance(self) -> None:
        """Give up or claim what is not fair, once."""

    @abstractmethod
    async def _leave(self, member: Callable[[], int]) -> None:
        """Hand over what a member has."""

    @abstractmethod
    async def join(self) -> None:
        """Become a member, with a new id."""

    # -- lending

    def _check(self) -> None:
        self._check_open()
        self._broker.check()
        if self._fenced:
            self._fenced = False
            raise Fenced(f"{self.name} lost its parts to another member; what it was lent comes again")

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the subscription of {self.name} is closed")

    def _until_due(self) -> float:
        due = min((feed.due for feed in self.feeds.values() if feed.due is not None), default=None)
        soonest = TURN if any(feed.suspects for feed in self.feeds.values()) else 0.001
        return 3600.0 if due is None else max(due - self._now(), soonest)

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

    def _weigh(self, found: Sequence[Any], limit: int, body: Callable[[Any], bytes]) -> None:
        """See how large bodies are, if so large that not all could be read, or were so before."""
        if self._weight or len(found) < limit:
            weight = sum(map(len, map(body, found))) // len(found)
            self._weight = weight if weight > LIGHT else 0

    async def _lend_exceptions(self, feeds: Sequence[Feed], limit: int) -> Sequence[Delivery]:
        """Those that are due; suspects with nothing else out, and none of another group of this process."""
        now = self._now()
        lone = any(feed.suspects for feed in feeds)
        if lone and (not self.idle or self._broker.suspicious(self)):
            return []
        state, most = (SUSPECT, min(limit, TOGETHER)) if lone else (RETRY, limit)
        for feed in feeds:
            if feed.due is None or feed.due > now or (lone and not feed.suspects):
                continue
            if loans := await self._due(feed, state, most):
                self._weigh(loans, most, VALUE)
                self._alone = lone
                return await self._lend_again(feed, together(loans) if lone else loans)
        return []

    async def _lend_again(self, feed: Feed, loans: Sequence[Loan]) -> Sequence[Delivery]:
        again = {loan.receipt: loan for loan in loans}
        feed.out |= again
        self._unseen = loans
        marked: set[int] = set()
        try:
            marked, look = await self._mark(feed, loans)
        except asyncio.CancelledError:
            marked = set(again)
            raise
        finally:  # one that was put behind another of its key meanwhile is not lent
            feed.out = {pos: loan for pos, loan in feed.out.items() if pos in marked or again.get(pos) is not loan}
            self._unseen = [delivery for delivery in self._unseen if delivery.receipt in marked]
        failpoint.hit("lent_again")
        look()
        lent, self._unseen = self._unseen, ()
        return lent

    # -- settling

    def _plan(self, deliveries: Sequence[Delivery], cursors: dict[int, int]) -> tuple[list[Settling], bool]:
        """What acknowledging these means for each feed, and whether all of them are lent."""
        receipts = {delivery.receipt for delivery in deliveries}
        plan = []
        known = 0
        for feed in self.feeds.values():
            lent = feed.lent.copy()
            left = lent.keys() - receipts
            acked = receipts if len(lent) - len(left) == len(receipts) else receipts & lent.keys()
            retried = receipts & feed.out.keys()
            if acked or retried:
                known += len(acked) + len(retried)
                mark = watermark(left, cursors[feed.id])
                above: list[Loan] = []
                if (last := max(acked | retried if retried else acked)) > mark:
                    feed.done_to = max(feed.done_to, last)
                    above = [lent[pos] for pos in acked if pos > mark]
                plan.append(Settling(feed, acked, {pos: feed.out[pos].record.key for pos in retried}, mark, above, {}))
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
                self._release(settling, gone)
                self.wake.set()
        if self._weight or self._crowded or self._alone or any(feed.suspects for feed in self.feeds.values()):
            self.wake.set()

    def _withdraw(self, deliveries: Sequence[Delivery]) -> Withdrawal:
        """See what handing these back means; nothing more of their keys is lent from now on."""
        topics = {feed.name: feed for feed in self.feeds.values()}
        found = Withdrawal([], [], [])
        for delivery in deliveries:
            feed, pos, key = topics[delivery.record.topic], delivery.receipt, delivery.record.key
            lent = feed.lent.get(pos) or feed.out.get(pos)
            if lent is None:
                continue
            found.again.append((feed, delivery, lent.part))
            found.ended.append((feed, lent))
            if key is not None:
                feed.held.add(key)
                later = behind(feed.lent, key, pos)
                found.behind.extend((feed, loan) for loan in later)
                later += behind(feed.out, key, pos)
                found.ended.extend((feed, loan) for loan in later)
                receipts = {loan.receipt for loan in later}
                self._unseen = [unseen for unseen in self._unseen if unseen.receipt not in receipts]
        return found

    def _end(self, ended: Sequence[tuple[Feed, Loan]]) -> None:
        """With the commit these are not lent any more; what was lent anew after it is another loan."""
        failpoint.hit("held_back")
        for feed, loan in ended:
            for loans in (feed.lent, feed.out):
                if loans.get(loan.receipt) is loan:
                    del loans[loan.receipt]

    async def extend(self, deliveries: Sequence[Delivery], lease: float) -> None:
        """Nothing to do: the lease is the member's, and the broker renews it."""

    # -- ownership

    def _lost(self) -> Fenced:
        """Its parts are another member's."""
        self._void = self.stale = True
        return Fenced(f"{self.name} lost its parts to another member; nothing of this is kept")

    def _strange(self) -> Fenced:
        """It settles what is not lent to it, together with something else."""
        self._void = self.stale = True
        return Fenced(f"{self.name} no longer holds some of the records that it settles; nothing of this is kept")

    @property
    def alone(self) -> bool:
        """Whether suspects are out."""
        return self._alone and not self.idle

    @property
    def idle(self) -> bool:
        """Whether nothing is lent."""
        return not any(feed.lent or feed.out for feed in self.feeds.values())

    async def rebalance(self) -> None:
        """Give up parts beyond the fair share when nothing is lent, and claim free ones; again where that fails."""
        try:
            await self._rebalance()
        except BaseException:
            self.stale = True
            raise

    async def _lose(self) -> None:
        """Another member took over: nothing that was lent counts any more. Start again as a new member."""
        self._fenced, self._void, self._alone, self._unseen = not self.idle, False, False, ()
        old, self._mine = self.member, self._nothing
        for feed in self.feeds.values():
            feed.lent.clear()
            feed.out.clear()
        await self._leave(lambda: old)
        await self.join()

    async def close(self) -> None:
        """See Subscription.close."""
        if self._closed:
            return
        self._closed = True
        self.wake.set()
        self._broker.forget(self)
        with contextlib.suppress(StorageError, Closed):  # a lease that could not be given back runs out
            await self._leave(lambda: self.member)


def done(settling: Settling) -> list[tuple[int, int, int, int, int]]:
    """Rows for what is settled above the mark: feed, position, part, state and tries."""
    return [(settling.feed.id, loan.receipt, loan.part, DONE, 1) for loan in settling.above]


def together(loans: Sequence[Loan]) -> Sequence[Loan]:
    """Those of the first suspects that may be lent together."""
    once = list(takewhile(lambda loan: loan.attempt == 2, loans))
    return once or loans[:1]


def behind(loans: Mapping[int, Loan], key: str, pos: int) -> list[Loan]:
    """Those of the key that come after a position."""
    return [loan for loan in loans.values() if loan.record.key == key and loan.receipt > pos]
