"""Redis and Valkey: a stream for each part of a topic, and for each group a hash with where it stands in each part.

The guide (docs/guide/redis.md) has the layout for other clients.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

from tidings.binding import seconds
from tidings.broker import Feature, Lag, Record, Start
from tidings.clock import Clock
from tidings.errors import BrokerError, ConfigError, DecodeError
from tidings.link import Line
from tidings.redis import address, naming, scripts
from tidings.redis.naming import LARGEST, Place, Topic
from tidings.redis.part import order

try:
    from tidings.redis import moment
    from tidings.redis.connection import Connection, Dialer, pairs
    from tidings.redis.line import GroupLine
    from tidings.redis.publisher import Publisher
    from tidings.redis.view import ViewLine
    from tidings.redis.wire import Refused, Word
except ModuleNotFoundError as missing:
    raise ConfigError("Redis needs its client: pip install 'tidings[redis]'") from missing

log = logging.getLogger("tidings")

LEASE = 30.0
KEEP = 7 * 86400.0
TRIM_EVERY = 60.0


class RedisLink:
    """See Link. `keep` is for how many seconds topics keep what all groups have done: a week, or `inf` for ever."""

    features = Feature.DURABLE | Feature.ORDERED | Feature.REPLAY | Feature.UNIQUE

    def __init__(self, url: str, clock: Clock, *, lease: float = LEASE, keep: float | None = None) -> None:
        self._address = address.parse(url)
        self._clock = clock
        self._lease = self._address.lease or lease
        self._keep = KEEP if keep is None else keep
        self._dialer = Dialer(self._address, clock)
        self._connection = Connection(self._dialer, clock, self._changed)
        self._writer = Connection(self._dialer, clock, self._changed)
        self._publisher = Publisher(
            self._writer, self._topic, window=self._address.window, replicas=self._address.replicas
        )
        self._topics: dict[str, Topic] = {}
        self._lines: dict[Line, None] = {}
        self._housekeeper: asyncio.Task[None] | None = None
        self.limit: int | None = None

    def _changed(self) -> None:
        """A connection was lost, or there is another one: members look at their groups."""
        for line in self._lines:
            if isinstance(line, GroupLine):
                line.look()

    async def open(self) -> None:
        """See Link."""
        await self._connection.open()
        try:
            await self._writer.open()
            self.limit = self._publisher.limit = await self._largest()
        except BaseException:
            await self._writer.close()
            await self._connection.close()
            raise
        self._publisher.open()
        if self._keep < math.inf:
            self._housekeeper = asyncio.create_task(self._keep_trimming(), name="redis-housekeeper")

    async def _largest(self) -> int:
        try:
            told = pairs(await self._connection.wire().ask("CONFIG", "GET", "proto-max-bulk-len"))
        except Refused:  # who may not ask for settings may still publish
            return LARGEST
        return int(told.get("proto-max-bulk-len", LARGEST))

    async def close(self) -> None:
        """See Link."""
        for line in list(self._lines):
            await line.close()
        self._lines.clear()
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        await self._publisher.close()
        await self._writer.close()
        await self._connection.close()

    async def _topic(self, name: str, anew: bool = False) -> Topic:
        """The topic as it is on the server, made where there is none."""
        if anew or name not in self._topics:
            await self._declare(name, "", [])
        return self._topics[name]

    async def _declare(self, name: str, group: str, starts: Sequence[str]) -> Topic:
        """Make the topic and the group, where there are none. `starts` says where, for one or for each part."""
        known = self._topics.get(name) or naming.topic(self._address.prefix, name, self._address.parts)
        for _ in range(3):
            place = Place(known, group)
            parts = len(known.streams)
            each = [*starts] if len(starts) == parts else [*starts] * parts
            keys: list[Word] = [known.root, known.groups, place.state, *known.streams]
            found = await self._connection.wire().run(scripts.DECLARE, keys, (parts, group, *each))
            if found == parts:
                self._topics[name] = known
                return known
            known = naming.topic(self._address.prefix, name, found)
        raise BrokerError(f"topic {name} changes its parts again and again")

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Link."""
        self._connection.wire()
        where = await self._topic(topic)
        if not groups:
            return
        starts = await self._starts(where, start)
        for group in groups:
            await self._declare(topic, group, starts)

    async def _starts(self, topic: Topic, start: Start | float) -> list[str]:
        """Where to start, as scripts want it: the same for each part, or the place and the count of each."""
        if isinstance(start, Start):
            return [start.value] * len(topic.streams)
        found = await moment.places(self._connection.wire(), topic.streams, start)
        return [f"{id.decode()} {count}" for id, count in found]

    async def publish(self, records: Sequence[Record]) -> None:
        """See Link."""
        await self._publisher.publish(records)

    async def join(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> Line:
        """See Link."""
        line: GroupLine | ViewLine
        if group is None:
            line = ViewLine(self._dialer, self._clock, await self._behind(topics, start))
        else:
            for topic in topics:
                await self.declare(topic, [group], start)
            places = [Place(self._topics[topic], group) for topic in topics]
            line = GroupLine(self._connection, self._dialer, self._clock, lease=self._lease, places=places)
            await line.open()
        self._lines[line] = None
        return line

    async def _behind(self, topics: Sequence[str], start: Start | float) -> dict[Topic, list[bytes]]:
        """Behind which id of each stream a view begins."""
        found: dict[Topic, list[bytes]] = {}
        wire = self._connection.wire()
        for topic in [await self._topic(name) for name in topics]:
            if start is Start.EARLIEST:
                found[topic] = [b"0-0"] * len(topic.streams)
            elif start is Start.LATEST:
                found[topic] = [last for last, _ in await wire.run(scripts.LAST, topic.streams)]
            else:
                found[topic] = [await moment.behind(wire, stream, start) for stream in topic.streams]
        return found

    async def lag(self, topic: str, group: str) -> Lag:
        """See Link."""
        wire = self._connection.wire()
        where = await self._existing(topic)
        if where is None:
            return Lag(None, None)
        place = Place(where, group)
        found = await wire.run(scripts.LAG, (place.state, *where.streams, *place.all_done))
        if found is None:
            return Lag(None, None)
        times = [_time(id, told) for id, told in found[1]]
        return Lag(found[0], max(0.0, self._clock.now() - min(times)) if times else 0.0)

    async def _existing(self, name: str) -> Topic | None:
        """The topic, where there is one."""
        if name not in self._topics:
            root = naming.topic(self._address.prefix, name, 0).root
            parts = await self._connection.wire().ask("HGET", root, "parts")
            if parts is None:
                return None
            self._topics[name] = naming.topic(self._address.prefix, name, int(parts))
        return self._topics[name]

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Link."""
        where = await self._existing(topic)
        if where is not None:
            place = Place(where, group)
            keys: list[Word] = [place.state, place.bell, *where.streams, *place.all_done]
            if await self._connection.wire().run(scripts.SEEK, keys, await self._starts(where, to)):
                return
        raise BrokerError(f"there is no group {group} on topic {topic}")

    # -- housekeeping

    async def _keep_trimming(self) -> None:
        while True:
            await self._clock.sleep(TRIM_EVERY * (0.5 + self._clock.random()))
            for topic in list(self._topics.values()):
                try:
                    await self.trim(topic.name, self._keep)
                except BrokerError as error:
                    log.warning("topic %s will be trimmed later: %s", topic.name, error)

    async def trim(self, name: str, keep: float) -> int:
        """Forget what is older than `keep` seconds and done by every group; returns how many entries."""
        topic, wire, total = await self._topic(name), self._connection.wire(), 0
        while True:
            groups = [group.decode() for group in await wire.ask("SMEMBERS", topic.groups)]
            states = [Place(topic, group).state for group in groups]
            keys: list[Word] = [topic.groups, *topic.streams, *states]
            count = int(await wire.run(scripts.TRIM, keys, (int(keep * 1000), len(topic.streams))))
            total += max(count, 0)
            if not count:
                return total


def _time(id: bytes, told: bytes) -> float:
    try:
        return seconds(told.decode())
    except (UnicodeDecodeError, DecodeError):
        return order(id)[0] / 1000
