"""A member of a group on Redis: it has some parts of each topic, lends what is in them and writes what is done.

What is read is read ahead, by anybody; what is lent is first written to the group, by a script that refuses who no
longer has the part. Every few seconds the member gives a sign of life, looks who else is there, claims what is free up
to its share and lets go of what is more than that, when what is out of it is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterable, Sequence

from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import BrokerError, Fenced
from tidings.redis import scripts
from tidings.redis.connection import Connection, Dialer
from tidings.redis.ears import Ears
from tidings.redis.naming import Place
from tidings.redis.part import Entry, Part, oldest_first
from tidings.redis.standing import Sight, Standing
from tidings.roster import Life, claimable, going, let_go, share
from tidings.steward import Steward

log = logging.getLogger("tidings")

LOST = "parts of the keys went to another member of the group, or the group was moved: what was out comes again"
TICK, AGAIN = 3.0, 0.5
"""Seconds between two looks at the group: at most, and after trouble."""
MOST = 1000
"""How many entries are lent at once."""
Lent = tuple[Standing, Part, list[Entry]]


class GroupLine:
    """See Line. What is handed over at an orderly close is not counted as an attempt."""

    def __init__(
        self, connection: Connection, dialer: Dialer, clock: Clock, *, lease: float, places: Sequence[Place]
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._lease = lease
        self._me = clock.id()
        self._standings = [Standing(place, self._me, Life(clock, lease)) for place in places]
        self._bells = {standing.place.bell: standing for standing in self._standings}
        self._receipts = itertools.count(1)
        self._out: dict[int, bytes] = {}
        self._whose: dict[int, Part] = {}  # beside it: pairs of the two would be looked through by every collection
        self._writing = asyncio.Lock()
        self._news = asyncio.Event()
        self._ears = Ears(dialer, clock, self._heard, self._news.set)
        self._era = 0
        self._fenced = ""
        self._steward = Steward(
            "a member of a group on Redis", clock, tend=self._tend, every=min(lease / 3, TICK), again=AGAIN
        )

    async def open(self) -> None:
        """Take a share of the parts."""
        try:
            await self._tend()
        except BaseException:
            await self.close()
            raise
        self._steward.start()

    # -- lending and settling

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Line."""
        deadline = self._clock.monotonic() + wait
        while True:
            self._check()
            self._news.clear()
            if (taken := self._take(min(limit, MOST))) and (lent := await self._lend(taken)):
                return lent
            if taken:
                continue
            left = deadline - self._clock.monotonic()
            if not self._ears.listening:
                await self._listen(left, limit)
                if left <= 0:
                    await self._ears.wait_for_answer()
                    if self._news.is_set() and any(part.buffer for part in self._parts()):
                        continue
            if left <= 0:
                if self._steward.trouble is not None:
                    raise self._steward.trouble
                return []
            await self._clock.wait(self._news, left)

    def _check(self) -> None:
        self._steward.check()
        if self._fenced:
            why, self._fenced = self._fenced, ""
            raise Fenced(why)

    def _parts(self) -> list[Part]:
        return [part for standing in self._standings for part in standing.parts.values()]

    async def _listen(self, wait: float, limit: int) -> None:
        """Ask for what is new in our parts, and to be told when something changes in the group."""
        places = {part.stream: part.read for part in self._parts() if part.leaving is None and not part.buffer}
        if wait > 0:
            places |= {bell: standing.bell for bell, standing in self._bells.items()}
        if places:
            self._connection.wire()  # while there is none, nothing else is tried
            await self._ears.ask(places, wait, limit=limit)

    def _heard(self, stream: bytes, behind: bytes, entries: list[Entry]) -> None:
        if (rung := self._bells.get(stream)) is not None:
            rung.bell = entries[-1][0]
            self._steward.stir()
            return
        for part in self._parts():
            if part.stream == stream and part.read == behind and entries:
                part.buffer.extend(entries)
                part.read = entries[-1][0]

    def _take(self, limit: int) -> list[Lent]:
        """What was read ahead, the oldest first; where there are suspects, nothing beside them."""
        owners = {part: standing for standing in self._standings for part in standing.parts.values()}
        ready = oldest_first(part for part in owners if part.buffer and part.leaving is None)
        if suspects := [part for part in ready if part.deaths and part.suspected]:
            return [(owners[suspects[0]], suspects[0], suspects[0].take(limit))]
        taken: list[Lent] = []
        for part in ready:
            taken.append((owners[part], part, part.take(limit)))
            limit -= len(taken[-1][2])
            if limit <= 0:
                break
        return taken

    async def _lend(self, taken: Sequence[Lent]) -> list[Delivery]:
        era = self._era
        try:
            await self._mark(taken)
            if era != self._era:
                raise Fenced(LOST)
        except BaseException as error:
            if isinstance(error, Fenced):
                self._fenced = ""  # this is how it is told
            for _, part, entries in taken if era == self._era else ():
                part.put_back(entries)
            raise
        lent: list[Delivery] = []
        for standing, part, entries in taken:
            fresh = [each for each in entries if each[0] not in part.beyond] if part.beyond else entries
            records = standing.reading.records(fresh, part.stream)
            ids = [id for id, _ in fresh]
            receipts = list(itertools.islice(self._receipts, len(ids)))
            self._out.update(zip(receipts, ids, strict=True))
            self._whose.update(dict.fromkeys(receipts, part))
            attempts = map(part.attempt, ids) if part.deaths else itertools.repeat(1)
            lent += map(Delivery, records, attempts, receipts)
            part.lent(entries)
        return lent

    async def _mark(self, taken: Sequence[Lent]) -> None:
        """Write that these are lent. Raises Fenced where we no longer have the parts."""
        lasts: dict[Standing, dict[int, bytes]] = {}
        for standing, part, entries in taken:
            lasts.setdefault(standing, {})[part.number] = entries[-1][0]
        wire = self._connection.wire()
        answers = await wire.run_all([standing.lend(ids) for standing, ids in lasts.items()])
        for standing, (rung, lost) in zip(lasts, answers, strict=True):
            if rung != standing.rung:
                standing.rung = rung
                self._steward.stir()
            if lost:
                self._fence(standing, lost)
                raise Fenced(LOST)

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See Line."""
        self._steward.check_open()
        if self._fenced and any(each.receipt not in self._out for each in deliveries):
            raise Fenced(self._fenced)  # fetch will tell it, too
        mine = dict.fromkeys([each.receipt for each in deliveries if each.receipt in self._out])
        for part, receipts in itertools.groupby(mine, self._whose.pop):
            part.settle(list(map(self._out.pop, receipts)))
        era = self._era
        await self._write()
        if era != self._era:
            raise Fenced(LOST)
        if any(part.leaving is not None and not part.pending for part in self._parts()):
            self._steward.stir()

    async def _write(self) -> None:
        """On return all that is done is written. Raises Fenced."""
        async with self._writing:
            changes = {
                standing: {number: part.change() for number, part in standing.parts.items() if part.dirty}
                for standing in self._standings
            }
            changes = {standing: each for standing, each in changes.items() if each}
            if not changes:
                return
            parts = [(s.parts[number], change) for s, each in changes.items() for number, change in each.items()]
            try:
                wire = self._connection.wire()
                answers = await wire.run_all([standing.done(each) for standing, each in changes.items()])
            except BaseException:
                for part, _ in parts:
                    part.dirty = True
                raise
            for part, change in parts:
                part.written(change)
        for standing, lost in zip(changes, answers, strict=True):
            if lost:
                mine = {part for part, _ in parts}
                self._fence(standing, [number for number in lost if standing.parts.get(number) in mine])
                self._fenced = LOST
                raise Fenced(LOST)

    def _fence(self, standing: Standing, lost: Iterable[int]) -> None:
        """These are another's. What was out means nothing any more, and what is still ours of it comes again."""
        for number in lost:
            if (part := standing.parts.pop(number, None)) is not None:
                standing.stood[number] = part.position
        if self._out:  # otherwise nobody has anything that means nothing now
            self._fenced = LOST
        self._out.clear()
        self._whose.clear()
        for part in self._parts():
            part.rewind()
        self._ears.close()
        self._era += 1
        self._news.set()
        self._steward.stir()

    # -- the share

    def look(self) -> None:
        """Something may have changed: look at the group."""
        self._steward.stir()

    async def _tend(self) -> None:
        wire = self._connection.wire()
        for standing in self._standings:
            sight = await standing.sign(wire)
            await self._restore(standing, sight)
            if sight is not None:
                await self._share(standing, sight)
                await self._look_back(standing)

    async def _look_back(self, standing: Standing) -> None:
        """A stream may have been deleted and begun anew, or have lost its end to a crash or a failover."""
        parts = list(standing.parts.values())
        if not parts:
            return
        wire = self._connection.wire()
        same, standing.wire = standing.wire is wire, wire
        ends = await wire.run(scripts.LAST, [part.stream for part in parts])
        shorter = [
            (part, last, added) for part, (last, added) in zip(parts, ends, strict=True) if part.beyond_end(last)
        ]
        if not shorter:
            return
        log.warning(
            "%d parts of topic %s end on the Redis server before what was read of them: %s goes on from %s",
            len(shorter), standing.place.topic.name, standing.place.group,
            "their beginning, they were deleted" if same else "their end, the server has lost what came after",
        )  # fmt: skip
        for part, last, added in shorter:
            part.step_back(b"0-0" if same else last, 0 if same else added)
        self._fence(standing, [])

    async def _restore(self, standing: Standing, sight: Sight | None) -> None:
        """The group, or parts of it, may be gone from the server: deleted, or all of it flushed."""
        known = {} if sight is None else sight.owners
        gone = [number for number in range(len(standing.place.topic.streams)) if number not in known]
        now = self._clock.monotonic()
        standing.missing = {number: standing.missing.get(number, now) for number in gone}
        standing.stood |= {number: part.position for number, part in standing.parts.items()}
        ours = {number: standing.stood[number] for number in gone if number in standing.stood}
        for number in known:
            standing.stood.pop(number, None)
        late = {n: b"0-0" for n in gone if n not in ours and now - standing.missing[n] > self._lease}
        if not (ours or late):
            return
        place = standing.place
        log.warning(
            "the group %s on topic %s was deleted from the Redis server: it goes on where its members know that it "
            "stood, elsewhere from the beginning", place.group, place.topic.name,
        )  # fmt: skip
        await standing.restore(self._connection.wire(), ours | late)
        self._fence(standing, ours)

    async def _share(self, standing: Standing, sight: Sight) -> None:
        mine, owners = standing.parts, sight.owners
        lost = [number for number in mine if owners.get(number, self._me) != self._me]
        if lost:
            self._fence(standing, lost)
        alive = standing.life.alive(sight.members)
        standing.bury(sight, alive)
        quota = share(len(standing.place.topic.streams), alive, self._me, group=standing.place.state)
        let_go(mine.values(), quota, self._clock.monotonic() + self._lease)
        await self._hand_over(standing)
        others = {number: owner for number, owner in owners.items() if number not in mine}
        if claim := claimable(others, alive, self._me, quota - len(mine)):
            await standing.claim(self._connection.wire(), {number: others[number] for number in claim})
            self._ears.close()
            self._news.set()

    async def _hand_over(self, standing: Standing) -> None:
        """What is to go, goes when nothing of it is out; or when it has been waited for long enough."""
        away, late = going(standing.parts.values(), self._clock.monotonic())
        if not away:
            return
        await self._write()
        for part in away:
            standing.parts.pop(part.number, None)
        if late:
            self._fence(standing, [])
        await standing.release(self._connection.wire(), [part.number for part in away])

    async def close(self) -> None:
        """See Line. Who is cancelled while it waits leaves all the same."""
        self._ears.shut()
        self._news.set()
        await self._steward.leave(self._leave)

    async def _leave(self) -> None:
        with contextlib.suppress(BrokerError):
            await self._write()
        with contextlib.suppress(BrokerError):
            wire = self._connection.wire()
            for standing in self._standings:
                await standing.release(wire, standing.parts, leave=True)
