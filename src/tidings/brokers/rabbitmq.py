"""RabbitMQ: an exchange for each topic, a quorum queue for each group and part of the keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache

try:
    from tidings.amqp import content, naming
    from tidings.amqp.address import SLOTS, parse
    from tidings.amqp.channel import Channel, Lost, Publisher, Refused
    from tidings.amqp.connection import Connection, server_version
    from tidings.amqp.control import SILENT, Control, Word, encode
    from tidings.amqp.line import GroupLine
    from tidings.amqp.naming import LARGEST, Place, largest
    from tidings.amqp.view import View
    from tidings.amqp.wire import envelope, packed
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("pika"):
        raise
    from tidings.errors import ConfigError

    raise ConfigError("RabbitMQ needs its client: pip install 'tidings[rabbitmq]'") from error

from tidings.broker import Feature, Lag, Record, Start
from tidings.clock import Clock
from tidings.errors import BodyTooLarge, BrokerError, Closed, InvalidEvent, PublishFailed
from tidings.link import Line

PERSISTENT = b"\x10\x00\x02"
OTHER_SETTINGS, NOT_FOUND = 406, 404
CENSUS = 3.0
"""Seconds in which members say what is out of their parts."""
LEAST_HEARTBEAT = 2
"""Seconds: below, a busy machine loses connections for nothing, and each time its members begin anew."""


class RabbitLink:
    """See Link. Its URL is `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS; the guide names the options.

    `lease` in seconds: a member that is silent for about as long is taken for dead, by heartbeats of a third of it,
    of two seconds at least.
    There is no going back to what a group has handled: a queue forgets what is acknowledged.
    """

    features = Feature.DURABLE | Feature.ORDERED

    def __init__(self, url: str, clock: Clock, *, lease: float = 30.0, keep: float | None = None) -> None:
        self._address = parse(url)
        self._clock = clock
        self._lease = lease
        heartbeat = self._address.heartbeat or max(LEAST_HEARTBEAT, round(lease / 3))
        self.limit: int | None = None
        self.had: set[str] = set()
        self.connection = Connection(self._address, clock, heartbeat=heartbeat)
        self.voice = Connection(self._address, clock, heartbeat=heartbeat)
        self._publisher: Publisher | None = None
        self._opening = asyncio.Lock()
        self._made: dict[Place, int] = {}
        self._exchanges: dict[str, int] = {}
        self._gone: set[Place] = set()
        self._listened: set[str] = set()
        self._publishing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._opened = False

    async def open(self) -> None:
        """See Link."""
        if self._opened:
            return
        await self.connection.open()
        try:
            await self.voice.open()
        except BaseException:
            await self.connection.close()
            raise
        self._opened = True
        self.limit = largest(server_version(self.connection.wire()))

    async def close(self) -> None:
        """See Link."""
        if not self._opened:
            return
        self._opened = False
        for user in list(self.connection.users):
            await user.close()
        await self._clock.wait(self._idle, 5.0)
        await self.voice.close()
        await self.connection.close()

    def mailbox(self, member: str) -> str:
        """See House."""
        return f"{self._address.prefix}:member:{member}"

    # -- declaring

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Link. A new group begins with what comes after, whatever `start` says."""
        self._check()
        await self._make_exchange(topic)
        for group in groups:
            await self.make(self._place(topic, group))

    def _check(self) -> None:
        if not self._opened:
            raise Closed("the connection to RabbitMQ is not open")

    def _place(self, topic: str, group: str) -> Place:
        return naming.place(self._address.prefix, topic, group, self._address.parts)

    async def _make_exchange(self, topic: str) -> str:
        name = naming.exchange(self._address.prefix, topic)
        if self._exchanges.get(name) != self.connection.times:
            async with self._channel() as channel:
                await channel.ask("exchange_declare", exchange=name, exchange_type="topic", durable=True)
            self._exchanges[name] = self.connection.times
        return name

    async def make(self, place: Place) -> None:
        """See House."""
        self._listened.add(place.exchange)
        if self._made.get(place) == self.connection.times:
            return
        await self._make_exchange(place.topic)
        try:
            async with self._channel() as channel:
                await self._make_queues(channel, place)
        except Refused as refused:
            if refused.code != OTHER_SETTINGS:
                raise
            raise BrokerError(
                f"{place.name} exists with other settings, such as another number of parts: {refused}. Take the "
                f"settings that it has (?parts= in the URL), or delete its queues when they are empty"
            ) from refused
        if place in self._gone:
            locks = [place.lock(part) for part in range(place.parts)]
            await self.write([(lock, encode(Word("anew", place=lock))) for lock in locks])
            self._gone.discard(place)
        self._made[place] = self.connection.times

    def forget(self, place: Place) -> None:
        """See House."""
        self._gone.add(place)
        self._made.pop(place, None)
        self._exchanges.pop(place.exchange, None)

    async def _make_queues(self, channel: Channel, place: Place) -> None:
        version = server_version(channel.wire)
        mark = {"alternate-exchange": f"{place.name}:{place.parts} parts"}
        await channel.ask("exchange_declare", exchange=place.mark, exchange_type="fanout", durable=True, arguments=mark)
        for part in range(place.parts):
            settings = naming.queue_settings(version)
            await channel.ask("queue_declare", queue=place.queue(part), durable=True, arguments=settings)
            settings = naming.book_settings(version)
            await channel.ask("queue_declare", queue=place.book(part), durable=True, arguments=settings)
            *slots, last = range(part, SLOTS, place.parts)
            for slot in slots:
                channel.tell("queue_bind", queue=place.queue(part), exchange=place.exchange, routing_key=str(slot))
            await channel.ask("queue_bind", queue=place.queue(part), exchange=place.exchange, routing_key=str(last))

    @contextlib.asynccontextmanager
    async def _channel(self) -> AsyncGenerator[Channel]:
        channel = await Channel(self.connection.wire()).open()
        try:
            yield channel
        finally:
            channel.abandon()

    # -- publishing

    async def publish(self, records: Sequence[Record]) -> None:
        """See Link."""
        self._check()
        wire_limit = self.limit or LARGEST
        for record in records:
            if len(record.value) > wire_limit:
                raise BodyTooLarge(f"A body of {len(record.value)} bytes is over RabbitMQ's limit of {wire_limit}.")
        self._publishing += 1
        self._idle.clear()
        try:
            await self._publish(records)
        finally:
            self._publishing -= 1
            if not self._publishing:
                self._idle.set()

    async def _publish(self, records: Sequence[Record]) -> None:
        if not records:
            return
        try:
            exchanges = {topic: await self._make_exchange(topic) for topic in {record.topic for record in records}}
            publisher = await self._ready()
            await publisher.wire.drained()
        except BrokerError as error:
            raise PublishFailed(f"Nothing was published: {error}", [record.id for record in records]) from error
        fits, number = publisher.wire.fits, publisher.number
        messages: list[bytes] = []
        for record in records:
            properties = content.properties(record)
            if len(properties) > fits:
                raise InvalidEvent(f"RabbitMQ cannot carry headers of {len(properties)} bytes: at most {fits} fit")
            exchange = exchanges[record.topic]
            key = record.key if record.key is not None else record.id
            begin = begun(number, exchange, naming.slot(key), exchange in self._listened)
            messages.append(begin + packed(number, properties, record.value, fits))
        await self._send(publisher, messages, records)

    async def _send(self, publisher: Publisher, messages: Sequence[bytes], records: Sequence[Record]) -> None:
        why = "RabbitMQ refused them: is a queue full?"
        unsent: Sequence[int] = range(len(records))
        try:
            first, batch = publisher.start(messages)
            try:
                await publisher.finish(batch)
            finally:
                unsent = publisher.unsettled(first, len(records), batch)
        except BrokerError as error:
            why = str(error)
            if isinstance(error, Refused) and error.code == NOT_FOUND:
                self._exchanges.clear()  # somebody has deleted one
        failed = [records[n].id for n in unsent]
        if publisher.homeless:
            homeless = publisher.homeless.intersection(record.id for record in records)
            publisher.homeless -= homeless
            failed += homeless
            why = "the queues of a group were deleted, and are made again"
            await self._make_again()
        if failed:
            raise PublishFailed(f"{len(failed)} of {len(records)} records may not be kept: {why}", failed)

    async def _make_again(self) -> None:
        for place in list(self._made):
            self.forget(place)
        for place in list(self._gone):
            await self.make(place)

    async def _ready(self) -> Publisher:
        """The channel for publishing."""
        async with self._opening:
            wire = self.voice.wire()
            if self._publisher is None or not self._publisher.usable or self._publisher.wire is not wire:
                self._publisher = await Publisher(wire).open()
            return self._publisher

    async def write(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """See House."""
        publisher = await self._ready()
        frames = [
            envelope(publisher.number, "", queue, mandatory=False)
            + packed(publisher.number, PERSISTENT, body, publisher.wire.fits)
            for queue, body in messages
        ]
        first, batch = publisher.start(frames)
        await publisher.finish(batch)
        if publisher.unsettled(first, len(frames), batch):
            raise Lost("RabbitMQ could not keep what is known of the parts of a group")

    # -- joining

    async def join(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> Line:
        """See Link. A view begins with what comes after, whatever `start` says."""
        self._check()
        if group is None:
            view = View(
                self.connection, self._clock, topics=[(topic, await self._make_exchange(topic)) for topic in topics]
            )
            await view.open()
            return view
        places = [self._place(topic, group) for topic in topics]
        for place in places:
            await self.make(place)
        line = GroupLine(self, self._clock, lease=self._lease, places=places)
        await line.open()
        return line

    async def lag(self, topic: str, group: str) -> Lag:
        """See Link. How old the oldest is, is not known; nor how many, while a member is silent or the broker deaf."""
        self._check()
        place = self._place(topic, group)
        try:
            async with self._channel() as channel:
                asked = [
                    await channel.ask("queue_declare", queue=place.queue(part), passive=True)
                    for part in range(place.parts)
                ]
        except Refused as refused:
            if refused.code != NOT_FOUND:
                raise
            return Lag(None, None)
        try:
            async with asyncio.timeout(CENSUS):
                out = await self._out(place)
        except (TimeoutError, Lost):
            return Lag(None, None)
        return Lag(out + sum(answer.method.message_count for answer in asked), None)

    async def _out(self, place: Place) -> int:
        """How many its members have not settled, which they are asked: that is published. Raises Lost."""
        control = await Control(self.connection.wire(), self.voice.wire(), self.mailbox(self._clock.id())).open()
        try:
            answers = await control.inquire([place.lock(part) for part in range(place.parts)], "count")
        finally:
            control.abandon()
        if SILENT in answers:
            raise Lost("a member does not say what it has not settled")
        return sum(answer.out for answer in answers if answer is not None)

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Link: always raises."""
        self._check()
        raise BrokerError(
            "RabbitMQ cannot bring again what a group has acknowledged, so there is no seek: use a broker with REPLAY"
        )


@lru_cache(4096)
def begun(channel: int, exchange: str, slot: int, mandatory: bool) -> bytes:
    """The frame that begins a record."""
    return envelope(channel, exchange, str(slot), mandatory=mandatory)
