"""A member of a group on JetStream: it has some parts of each topic, lends what is in them and writes what is done.

Every `lease / 3` seconds it gives a sign of life, looks who else is there, claims what is free up to its share and lets
go of what is more than that, when what is out of it is settled. Claims, what is lent and what is done are all written
to the cursor of a part by revision: whoever was taken for dead is refused, and told so by Fenced.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Sequence
from functools import partial

from tidings.broker import Delivery
from tidings.clock import Clock
from tidings.errors import BrokerError, Fenced
from tidings.fetching import first_found
from tidings.jetstream import content
from tidings.jetstream.connection import Connection
from tidings.jetstream.cursor import Cursor, State, decode, encode, given_back
from tidings.jetstream.group import Seen, Sight, look
from tidings.jetstream.naming import Place, Topic
from tidings.jetstream.part import Part, compare_and_put
from tidings.jetstream.reader import Message
from tidings.jetstream.server import DEADLINE, WRONG_REVISION, Find, Latest, Refused, acked, call, gone
from tidings.jetstream.wire import Lost, Question
from tidings.roster import Life, claimable, going, let_go, share
from tidings.steward import Steward

LOST = "parts of the keys went to another member of the group, or the group was moved: what was out comes again"


class Standing:
    """A group on a topic, as a member sees it."""

    def __init__(self, topic: Topic, place: Place, life: Life) -> None:
        self.topic = topic
        self.place = place
        self.life = life
        self.parts: dict[int, Part] = {}


class GroupLine:
    """See Line. What is handed over at an orderly close is not counted as an attempt."""

    def __init__(
        self, connection: Connection, clock: Clock, *, find: Find, lease: float, places: Sequence[tuple[Topic, Place]]
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._bucket = places[0][1].bucket
        self._find = find
        self._lease = lease
        self._me = clock.id()
        self._standings = [Standing(topic, place, Life(clock, lease)) for topic, place in places]
        self._receipts = itertools.count(1)
        self._out: dict[int, tuple[Part, int]] = {}
        self._writing: set[Part] = set()
        self._written = asyncio.Event()
        self._news = asyncio.Event()
        self._turn = 0
        self._era = 0
        self._fenced = ""
        self._wire: object | None = None
        self._steward = Steward("a member of a group on NATS", clock, tend=self._tend, every=lease / 3)

    async def open(self) -> None:
        """Take a share of the parts."""
        self._connection.users.add(self)
        try:
            await self._tend()
        except BaseException:
            await self.close()
            raise
        for standing in self._standings:  # so that others make room
            self._wake(standing)
        self._steward.start()

    # -- lending and settling

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """See Line."""
        found = await first_found(partial(self._next, limit), self._news, clock=self._clock, seconds=wait)
        if not found and self._steward.trouble is not None:
            raise self._steward.trouble
        return found

    async def _next(self, limit: int) -> Sequence[Delivery]:
        self._steward.check()
        if self._fenced:
            why, self._fenced = self._fenced, ""
            raise Fenced(why)
        taken = self._take(limit)
        return await self._lend(taken) if taken else []

    def _parts(self) -> list[Part]:
        return [part for standing in self._standings for part in standing.parts.values()]

    def _take(self, limit: int) -> list[tuple[Part, Message, int]]:
        ready = [part for part in self._parts() if part.ready]
        if not ready:
            return []
        self._turn = (self._turn + 1) % len(ready)
        taken: list[tuple[Part, Message, int]] = []
        for part in ready[self._turn :] + ready[: self._turn]:
            taken += part.take(limit - len(taken))
            if len(taken) >= limit:
                break
        return taken

    async def _lend(self, taken: Sequence[tuple[Part, Message, int]]) -> list[Delivery]:
        try:
            await self._write({part for part, _, _ in taken})
        except BaseException as error:
            if isinstance(error, Fenced):
                self._fenced = ""  # this is how it is told
            for part, lent in itertools.groupby(taken, lambda each: each[0]):
                part.put_back([message for _, message, _ in lent])
            raise
        lent_now: list[Delivery] = []
        for part, message, attempt in taken:
            receipt = next(self._receipts)
            self._out[receipt] = (part, message.sequence)
            place = f"{part.topic.stream}:{message.sequence}"
            record = content.record(part.topic.name, message.headers, message.data, place)
            lent_now.append(Delivery(record, attempt, receipt))
        return lent_now

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See Line."""
        self._steward.check_open()
        for delivery in deliveries:
            found = self._out.pop(delivery.receipt, None)
            if found is not None:
                found[0].cursor.settle(found[1])
        await self._write(self._parts())
        if any(part.leaving is not None and not part.cursor.out for part in self._parts()):
            self._steward.stir()

    async def _write(self, parts: Iterable[Part]) -> None:
        """On return the cursors of these are written as they were when this was called, or later. Raises Fenced."""
        era, marks = self._era, {part: part.cursor.changes for part in parts}
        while wanted := [part for part, mark in marks.items() if part.cursor.written < mark]:
            if free := [part for part in wanted if part not in self._writing]:
                await self._write_now(free)
            else:
                self._written.clear()
                await self._written.wait()
            if era != self._era:
                raise Fenced(LOST)

    async def _write_now(self, parts: Sequence[Part]) -> None:
        """One write of each; of those that were refused but are ours, the revision is known then."""
        self._writing.update(parts)
        try:
            marks = [part.cursor.changes for part in parts]
            answers = await self._connection.wire().ask([part.write() for part in parts], DEADLINE)
            refused: list[Part] = []
            for part, mark, answer in zip(parts, marks, answers, strict=True):
                try:
                    part.cursor.revision, part.cursor.written = acked(answer), mark
                except Refused as problem:
                    if problem.number != WRONG_REVISION:
                        raise
                    refused.append(part)
            await self._check_ours(refused)
        finally:
            self._writing.difference_update(parts)
            self._written.set()

    async def _check_ours(self, refused: Sequence[Part]) -> None:
        """An earlier write of ours may have come through untold. Raises Fenced for what is not ours."""
        lost: list[Part] = []
        for part in refused:
            latest = (await call(self._connection.wire(), *part.latest(self._bucket), Latest)).message
            if decode(latest.data).member == self._me:
                part.cursor.revision = latest.seq
            elif part.cursor.member:
                lost.append(part)
            else:  # it was given up, as was to be written
                part.cursor.written = part.cursor.changes
        if lost:  # and maybe more than these
            for standing in self._standings:
                lost += self._taken_away(standing, await look(self._connection.wire(), self._bucket, standing.place))
            self._fence(lost)
            raise Fenced(LOST)

    def _taken_away(self, standing: Standing, sight: Sight) -> list[Part]:
        """Those of ours that somebody else has written."""
        return [
            part
            for number, part in standing.parts.items()
            if (seen := sight.parts.get(number)) is not None
            and seen.revision > part.cursor.revision
            and seen.state.member != self._me
        ]

    def _fence(self, lost: Iterable[Part]) -> None:
        """These are another's. What was out means nothing any more, and what is still ours of it comes again."""
        for standing in self._standings:
            for part in lost:
                if standing.parts.get(part.number) is part:
                    del standing.parts[part.number]
                    part.close()
        self._out.clear()
        for part in self._parts():
            part.rewind()
        self._era += 1
        self._fenced = LOST
        self._news.set()
        self._steward.stir()

    # -- the share

    async def _tend(self) -> None:
        wire = self._connection.wire()
        if wire is not self._wire:
            self._wire = wire
            for standing in self._standings:
                wire.listen(standing.place.wake, lambda *_: self._steward.stir())
                for part in standing.parts.values():
                    if part.reader is not None:
                        part.reader.broken = True
        for standing in self._standings:
            await self._sign(standing)
            sight = await look(wire, self._bucket, standing.place)
            await self._share(standing, sight)
        await self._read()

    async def _sign(self, standing: Standing) -> None:
        ttl = max(3 * self._lease, 2.0)
        headers = b"NATS/1.0\r\nNats-TTL: %ds\r\n\r\n" % ttl
        question = Question(standing.place.member(self._me), b"{}", headers)
        acked((await self._connection.wire().ask([question], DEADLINE))[0])

    async def _share(self, standing: Standing, sight: Sight) -> None:
        mine = standing.parts
        if lost := self._taken_away(standing, sight):
            self._fence(lost)
        if not sight.parts:
            raise BrokerError(f"the state of {standing.place.root} is gone from the server: declare the group anew")
        alive = standing.life.alive(sight.members)
        quota = share(len(sight.parts), alive, self._me, group=standing.place.root)
        others = {number: seen.state.member for number, seen in sight.parts.items() if number not in mine}
        let_go(mine.values(), quota, self._clock.monotonic() + self._lease)
        await self._hand_over(standing)
        if claim := claimable(others, alive, self._me, quota - len(mine)):
            await self._claim(standing, {number: sight.parts[number] for number in claim})

    async def _hand_over(self, standing: Standing) -> None:
        """What is to go, goes when nothing of it is out; or when it has been waited for long enough."""
        for part in standing.parts.values():
            if part.leaving is None:
                part.cursor.member = self._me
        away, late = going(standing.parts.values(), self._clock.monotonic())
        if not away:
            return
        if late:
            self._fence([])
        await self._give_up(away)
        for part in away:
            standing.parts.pop(part.number, None)
            part.close()
        self._wake(standing)

    async def _give_up(self, parts: Sequence[Part]) -> None:
        """Write that nobody has these; what is out of them comes again, without being an attempt."""
        for part in parts:
            part.cursor.give_up()
        await self._write(parts)

    async def _claim(self, standing: Standing, free: dict[int, Seen]) -> None:
        """Become the member of these, as far as nobody else is quicker."""
        claimed: list[Part] = []
        for number, seen in free.items():
            state = given_back(seen.state, died=bool(seen.state.member) and seen.state.member != self._me)
            cursor = Cursor(State(state.read, state.made, self._me, [], state.back, state.tries), seen.revision)
            claimed.append(Part(standing.topic, number, standing.place.part(number), cursor))
        answers = await self._connection.wire().ask([part.claim() for part in claimed], DEADLINE)
        for part, answer in zip(claimed, answers, strict=True):
            with contextlib.suppress(Refused):
                part.cursor.revision, part.cursor.written = acked(answer), part.cursor.changes
                standing.parts[part.number] = part

    async def _read(self) -> None:
        """Begin to read what is new here, and again what was broken off."""
        wire = self._connection.wire()
        parts: list[Part] = []
        for standing in self._standings:
            begin = [p for p in standing.parts.values() if p.reader is None or p.reader.broken or p.reader.silent()]
            if begin:
                found = await self._find(standing.topic.name)
                if [part for part in begin if not part.fit(found.created, found.state.last_seq)]:
                    self._fence([])
                parts += begin
        asked = [part.questions(wire, self._clock, news=self._news.set, ended=self._steward.stir) for part in parts]
        if not asked:
            return
        answers = await wire.ask(list(itertools.chain(*asked)), DEADLINE)
        start = 0
        for part, questions in zip(parts, asked, strict=True):
            told = answers[start : start + len(questions)]
            part.begin(told, await gone(wire, part.topic.stream, part.unfound(told)))
            start += len(questions)
        self._news.set()

    def changed(self) -> None:
        """The wire was lost, or there is another one."""
        self._steward.stir()

    def _wake(self, standing: Standing) -> None:
        with contextlib.suppress(Lost):
            self._connection.wire().post(b"PUB %b 0\r\n\r\n" % standing.place.wake)

    async def close(self) -> None:
        """See Line."""
        self._news.set()
        await self._steward.leave(self._leave)

    async def _leave(self) -> None:
        with contextlib.suppress(BrokerError):
            await self._give_up(self._parts())
        with contextlib.suppress(BrokerError):
            for standing in self._standings:
                await self._sign_off(standing)
        for part in self._parts():
            part.close()
        self._connection.users.discard(self)

    async def _sign_off(self, standing: Standing) -> None:
        """Leave nothing that says we are there: no sign of life, and no part that was claimed when we were ended."""
        wire = self._connection.wire()
        headers = b"NATS/1.0\r\nKV-Operation: DEL\r\nNats-TTL: 60s\r\n\r\n"
        questions = [Question(standing.place.member(self._me), b"", headers)]
        for number, seen in (await look(wire, self._bucket, standing.place)).parts.items():
            if seen.state.member == self._me:
                state = encode(given_back(seen.state, died=False))
                questions.append(compare_and_put(standing.place.part(number), seen.revision, state))
        await wire.ask(questions, DEADLINE)
        self._wake(standing)
