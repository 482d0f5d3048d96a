"""A file's events move to another broker while its app runs: copied, compared, fenced, handed over. See docs/adr/0016.

What is at the target is the only truth about what was copied, so there is no cursor that could be wrong: whoever was
killed reads the target and copies what it lacks. Nothing is final before the one commit that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tidings import failpoint
from tidings.broker import Start
from tidings.clock import Clock
from tidings.embedded import fence
from tidings.embedded.database import Connection
from tidings.errors import BrokerError, ConfigError, PublishFailed
from tidings.moving.source import Feed, Row, Source
from tidings.moving.tally import Sum, Tally
from tidings.moving.target import Target

log = logging.getLogger("tidings")

BATCH = 500
FIRST, QUIET = 2.0, 0.5
"""Seconds without anything, at first and later, after which the target has been read to its end.

If it has not, something is published there twice: that is noticed, and no group handles it again.
"""
SOON = 0.1
PATIENCE = 30.0
"""Seconds without progress after which what is missing at the target is given up."""
SHOWN = 3
Progress = Callable[[int], None]


class Topic(NamedTuple):
    """A topic at both ends: how many events, and the hash over their ids and bodies, which is the same."""

    topic: str
    events: int
    hash: str


class Outcome(NamedTuple):
    """What was moved. For `pause` seconds nothing could be published. `drained`: whether no work was undone."""

    topics: list[Topic]
    groups: int
    delayed: int
    pause: float
    drained: bool
    repeated: int


class Migration:
    """One move of `source` to `target`, both open. `progress` is told how many events more have been copied."""

    def __init__(self, source: Source, target: Target, place: str, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._place = place
        self._progress = progress
        self._clock: Clock = source.clock
        self._broker = target.connection.broker
        self._cursor = 0
        self._topics: set[str] = set()
        self._sums: dict[str, Sum] = {}
        self._settled_to: dict[int, int] = {}  # by feed that has not begun: up to where it has settled everything
        self._tally = Tally(source)

    async def run(self, grace: float) -> Outcome:
        """Move. Where that fails, nothing has moved, and workers go on at the file; call again to go on.

        Workers have `grace` seconds to finish what they have; what takes longer is undone and handled at the target.
        """
        await self._source.run(self._start)
        failpoint.hit("begun")
        try:
            await self._look()
            await self._copy()
            await self._arrived()
            await self._prepare()
            drained = await self._source.drain(grace)
            failpoint.hit("drained")
            await self._copy()
            return await self._switch(drained)
        except BaseException:
            await self._source.run(self._give_back)
            raise
        finally:
            await self._tally.close()

    def _start(self, connection: Connection) -> None:
        state = fence.state(connection)
        if state is not None and (state[1] or state[0] != self._place):
            raise ConfigError(standing(self._source.path, *state))
        fence.begin(connection, self._place)

    def _give_back(self, connection: Connection) -> None:
        """Nothing has moved: the app goes on at the file; unless the commit that was waited for has been made."""
        if fence.state(connection) != (self._place, True):
            fence.lift(connection)
            fence.undrain(connection, self._source.process)

    # -- copying

    async def _look(self) -> None:
        """See what an earlier try has copied. Raises ConfigError where there is anything else."""
        await self._declare()
        wait = FIRST
        while await self._tally.take(wait):
            wait = QUIET
        if self._tally.strange:
            topic, count = self._tally.strange.most_common(1)[0]
            raise ConfigError(
                f"Topic {topic} at {self._place} holds {count} events that are not in {self._source.path}. "
                "Events move to empty topics: delete it there, or name another database, account or ?prefix=."
            )
        for feed in self._source.feeds():
            if feed.begun is not None and feed.begun >= 0 and not feed.ready:
                await self._enter(feed, Start.LATEST)
                await self._source.has_begun(feed, feed.begun)

    async def _declare(self) -> None:
        """Every topic exists at the target, and is looked at."""
        if topics := [topic for topic in self._source.topics() if topic not in self._topics]:
            for topic in topics:
                await self._broker.declare(topic, ())
            self._tally.watch(await self._broker.subscribe(topics, None, Start.EARLIEST))
            self._topics.update(topics)

    async def _copy(self) -> None:
        """Publish all that is not there yet, up to the end of the log as far as it is known now."""
        _, newest = self._source.span()
        await self._declare()
        while self._cursor < newest and (rows := self._source.rows(self._cursor, BATCH)):
            for row in rows:
                self._sums.setdefault(row.record.topic, Sum()).add(row.record)
            rest = [row for row in rows if not self._tally.has(row.pos)]
            for feed, first in self._beginning(rows[-1].pos):
                await self._publish([row for row in rest if row.pos < first])
                rest = [row for row in rest if row.pos >= first]
                await self._begin(feed, first - 1)
            await self._publish(rest)
            self._cursor = rows[-1].pos
            failpoint.hit("copied")
            self._progress(len(rows))
            await self._tally.take(0.0)

    async def _publish(self, rows: Sequence[Row]) -> None:
        """Until all are there; what could not be kept is published again, in the order of the log."""
        records = [row.record for row in rows]
        until = self._clock.monotonic() + PATIENCE
        while records:
            try:
                await self._broker.publish(records)
            except PublishFailed as failed:
                if self._clock.monotonic() > until:
                    raise
                log.warning("%d events are published once more: %s", len(failed.unsent), failed)
                unsent = set(failed.unsent)
                records = [record for record in records if record.id in unsent]
                await self._clock.sleep(0.5)
            else:
                break
        for row in rows:
            self._tally.newest[row.record.topic] = max(row.pos, self._tally.newest.get(row.record.topic, 0))

    # -- where groups begin

    def _beginning(self, upto: int) -> list[tuple[Feed, int]]:
        """The groups that have something to do up to this position and have not begun at the target: where."""
        found = []
        for feed in self._source.feeds():
            if feed.begun is None:
                first = self._source.first_open(feed, self._settled_to.get(feed.id, 0), upto)
                if first is not None:
                    found.append((feed, first))
                self._settled_to[feed.id] = upto
        return sorted(found, key=lambda each: each[1])

    async def _prepare(self) -> None:
        """What groups have done so far is made known at the target now: so much less is left for the pause."""
        for feed in self._source.feeds():
            if feed.begun is None:
                await self._begin_here(feed)
            elif feed.ready:
                first = self._source.first_open(feed, feed.begun, self._cursor)
                await self._target.prepare(feed, self._cursor if first is None else first - 1)

    async def _begin_here(self, feed: Feed) -> None:
        """The group begins at the target, with what it has not settled yet of all that is there."""
        first = self._source.first_open(feed, self._settled_to.get(feed.id, 0), self._cursor)
        await self._begin(feed, self._cursor if first is None else first - 1)

    async def _begin(self, feed: Feed, behind: int) -> None:
        """The group hears at the target what comes behind this position: exactly that, if it is not there yet."""
        if self._tally.newest.get(feed.topic, 0) > behind:
            await self._begin_anew(feed)
            return
        await self._source.begins(feed, behind)
        failpoint.hit("beginning")
        await self._enter(feed, Start.LATEST)
        await self._source.has_begun(feed, behind)

    async def _begin_anew(self, feed: Feed) -> None:
        """The group hears everything at the target, of which will be known there what it has done."""
        await self._enter(feed, Start.EARLIEST)
        await self._source.begins_anew(feed)

    async def _enter(self, feed: Feed, start: Start) -> None:
        """The group is at this end of the topic; also one that somebody has made there before."""
        await self._broker.declare(feed.topic, [feed.group], start)
        await self._broker.seek(feed.topic, feed.group, start)

    # -- comparing and handing over

    async def _arrived(self) -> None:
        """Wait until all that was copied has been read at the target, as long as there is progress."""
        wanted = sum(each.events for each in self._sums.values())
        until = self._clock.monotonic() + PATIENCE
        while self._tally.count < wanted and self._clock.monotonic() < until:
            if await self._tally.take(SOON):
                until = self._clock.monotonic() + PATIENCE

    async def _switch(self, drained: bool) -> Outcome:
        began = self._clock.monotonic()
        await self._source.fence(
            f"{self._source.path} is moving to {self._place}; in a moment it goes on, there or here."
        )
        failpoint.hit("fenced")
        await self._copy()
        await self._arrived()
        topics = self._compared()
        failpoint.hit("compared")
        for feed in self._source.feeds():
            if feed.begun is None:
                await self._begin_here(feed)
            elif feed.begun < 0:
                await self._begin_anew(feed)
        twice, delayed = self._tally.twice, self._source.delayed()
        feeds = [feed._replace(begun=0) if twice[feed.topic] else feed for feed in self._source.feeds()]
        failpoint.hit("settling")
        await self._target.settle(feeds, delayed, self.told)
        failpoint.hit("settled")
        groups = len({feed.group for feed in feeds})
        pause = self._clock.monotonic() - began
        return Outcome(topics, groups, len(delayed), pause, drained, twice.total())

    @property
    def told(self) -> str:
        """What workers and publishers are told that still go to the file."""
        return f"{self._source.path} has moved to {self._place}. Start with {self._target.settings}."

    def _compared(self) -> list[Topic]:
        """What is the same at both ends. Raises BrokerError with what is not."""
        wrong = self._tally.wrong[:SHOWN]
        topics = []
        counts = self._source.counts()
        for topic, events in counts.items():
            here, there = self._sums.get(topic, Sum()), self._tally.sums.get(topic, Sum())
            if not here.events == there.events == events:
                wrong.append(f"topic {topic} has {there.events} of its {events} events there")
            elif here.digest != there.digest:
                wrong.append(f"the hash of topic {topic}")
            topics.append(Topic(topic, events, there.hash))
        if strange := [topic for topic, count in self._tally.strange.items() if count]:
            wrong.append(f"topic {strange[0]} has events there that are not in the file")
        if wrong:
            raise BrokerError(
                f"What is at {self._place} is not what is in {self._source.path}: {'; '.join(wrong)}. Nothing has "
                "moved, the app goes on at the file. Delete these topics there and begin again."
            )
        return topics


async def roll_back(source: Source) -> str:
    """Give up a move that is not final: the app stays at the file. Where it was to go; raises ConfigError."""
    state = source.state()
    if state is None:
        raise ConfigError(f"No move of {source.path} has begun: there is nothing to give up.")
    if state[1]:
        raise ConfigError(standing(source.path, *state))
    await source.run(fence.end)
    return state[0]


def standing(path: Path, place: str, moved: bool) -> str:
    """What speaks against another move."""
    if moved:
        return f"{path} has moved to {place}, and that is final: what happened there since would be lost."
    return f"A move of {path} to {place} has begun: go on with it, or give it up with --rollback."
