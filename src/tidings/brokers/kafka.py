"""Apache Kafka: partitions are the parts of the keys, and an offset with its metadata is all that a group remembers.

A guided tour. Publishing is `kafka/publisher.py`, a member of a group or a view is `kafka/line.py`, what is remembered
of a partition is `kafka/ledger.py`, and headers are `kafka/wire.py`. What is here: the connection, topics, and where
groups stand. librdkafka blocks, so what asks it something runs in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from typing import TypeVar, cast

from tidings.broker import Feature, Lag, Record, Start
from tidings.clock import Clock
from tidings.errors import BodyTooLarge, BrokerError, Closed, ConfigError

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient
except ImportError as error:
    raise ConfigError("Kafka needs its client library: pip install 'tidings[kafka]'") from error

from tidings.kafka.ledger import Ledger
from tidings.kafka.line import KafkaLine
from tidings.kafka.notes import GROUP, Note, Notes
from tidings.kafka.offsets import ANSWER, NOWHERE, RESERVED, Offsets, Topic, checked, recalled
from tidings.kafka.publisher import Publisher, Told
from tidings.kafka.pump import Place
from tidings.kafka.settings import AWAY, SOON, Settings, broker_error, made
from tidings.kafka.spare import Spare
from tidings.kafka.wire import Wire

log = logging.getLogger("tidings")

LEASE = 30.0
FLUSH = 10.0
AGAIN = 0.1
USUAL_LIMIT = 1_048_588
VIEW = "tidings-view"
LOOK = 1.0
"""Seconds between two looks for notes."""
AWHILE = 5.0
"""Seconds after which a producer that says no more that all brokers are down has found one."""
GLANCE = 0.5
REFUSED = 3.0
"""Seconds in which servers that refuse are tried again: each may have another address, or be just coming."""
HEARD = 16

T = TypeVar("T")


class Known:
    """What was declared of a topic: its groups, with the prefix. `id` tells whether it is still the same topic."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.groups: dict[str, None] = {}


class KafkaLink:
    """See Link.

    `lease` in seconds is how long a silent member keeps its parts; `keep` for how many seconds topics that are made
    keep records, None for as long as Kafka is set to.
    """

    features = Feature.DURABLE | Feature.ORDERED | Feature.REPLAY

    def __init__(self, url: str, clock: Clock, *, lease: float = LEASE, keep: float | None = None) -> None:
        self.limit: int | None = None
        self.clock = clock
        self.wire = Wire()
        self._settings = Settings(url, lease)
        self._keep = keep
        self.lease = self._settings.lease
        self.prefix = self._settings.prefix
        self._topics: dict[str, int] = {}
        self._known: dict[str, Known] = {}
        self._away = -inf
        self._lines: dict[KafkaLine, None] = {}
        self._publisher: Publisher | None = None

    # -- the connection

    async def open(self) -> None:
        """See Link.open."""
        if self._publisher is not None:
            return
        self._threads = ThreadPoolExecutor(4, "tidings-kafka")
        said: deque[KafkaError] = deque(maxlen=HEARD)
        admin = made(AdminClient, self._settings.client() | {"error_cb": said.append})
        try:
            await self._reach(admin, said)
        except BaseException:
            self._threads.shutdown(wait=False)
            raise
        self._admin = Spare(lambda: cast(AdminClient, made(AdminClient, self._settings.client())), admin)
        self._sticker = Spare(partial(self._consumer, self.prefix + GROUP))
        self._offsets, self._notes = Offsets(self._admin, self._consumer), Notes(self._sticker)
        self.limit = USUAL_LIMIT - RESERVED
        patience = 2 * float(self._settings.producer()["message.timeout.ms"]) / 1000
        self._looker = asyncio.create_task(self._look(), name="tidings-kafka-notes")
        config = self._settings.producer() | {"error_cb": self._hear}
        self._publisher = Publisher(lambda: made(Producer, config), self._describe, patience)

    async def _reach(self, admin: AdminClient, said: Collection[KafkaError]) -> None:
        """Wait for an answer; `said` is what the client tells meanwhile, which it does when it is polled."""
        about = "Kafka cannot be reached"
        began = self.clock.monotonic()
        while True:
            try:
                await self._ask(lambda: admin.list_topics(timeout=GLANCE), about)
            except BrokerError as error:
                await self._ask(lambda: admin.poll(0), about)
                wrong = [each for each in said if each.code() not in AWAY]
                waited = self.clock.monotonic() - began
                if wrong or waited > (REFUSED if said else ANSWER):
                    raise broker_error([*wrong, *said][0], about) if said else error from error
            else:
                return

    async def close(self) -> None:
        """See Link.close."""
        if self._publisher is None:
            return
        publisher, self._publisher = self._publisher, None
        for line in list(self._lines):
            await line.close()
        await publisher.close(FLUSH)
        self._looker.cancel()
        await asyncio.wait([self._looker])
        for spare in (self._admin, self._sticker):
            await asyncio.get_running_loop().run_in_executor(self._threads, spare.give_up)
        self._threads.shutdown(wait=False)

    def _hear(self, error: KafkaError) -> None:
        """From the producer's thread, every two seconds while all brokers are down."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._away = self.clock.monotonic()
            self._admin.give_up()
            self._sticker.give_up()

    def forget(self, line: KafkaLine) -> None:
        """It is closed."""
        self._lines.pop(line, None)

    def _check(self) -> Publisher:
        if self._publisher is None:
            raise Closed("the connection to Kafka is not open")
        return self._publisher

    async def _ask(self, question: Callable[[], T], about: str) -> T:
        """In a thread; what Kafka cannot answer just now is asked again, for a while."""
        until = self.clock.monotonic() + ANSWER
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, question)
            except KafkaException as error:
                if error.args[0].code() not in SOON or self.clock.monotonic() > until:
                    raise broker_error(error, about) from error
            await self.clock.sleep(AGAIN)

    def _consumer(self, group: str) -> Consumer:
        consumer: Consumer = made(Consumer, self._settings.consumer(group))
        return consumer

    # -- publishing

    async def publish(self, records: Sequence[Record]) -> None:
        """See Link.publish."""
        publisher = self._check()
        for record in records:
            if record.topic not in self._topics:
                await self.declare(record.topic, ())
            if len(record.value) > self._topics[record.topic]:
                raise BodyTooLarge(
                    f"A body of {len(record.value)} bytes for topic {record.topic} is over Kafka's limit of "
                    f"{self._topics[record.topic]}; keep the payload elsewhere and publish a reference, or raise the "
                    "topic's max.message.bytes."
                )
        await publisher.publish(records)

    def _describe(self, records: Sequence[Record]) -> list[Told]:
        """What the producer is told of records. Kafka refuses what is from the future: its own stamp is from now."""
        prefix, headers, now = self.prefix, self.wire.headers, self.clock.now()
        return [
            (
                prefix + record.topic,
                record.value,
                None if record.key is None else record.key.encode(),
                headers(record),
                int(min(record.time, now) * 1000),
            )
            for record in records
        ]

    # -- topics and groups

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Link.declare."""
        self._check()
        about = f"topic {topic} cannot be declared"
        name = self.prefix + topic
        made = await self._made(name, about)
        if topic not in self._topics:
            largest = await self._ask(lambda: self._offsets.largest(name), about)
            self._topics[topic] = (largest or USUAL_LIMIT) - RESERVED
        known = self._known.setdefault(topic, Known(made.id))
        for group in groups:
            await self._ask(partial(self._stand, name, made.partitions, self.prefix + group, start), about)
            known.groups[self.prefix + group] = None

    async def _made(self, name: str, about: str) -> Topic:
        said = self._settings
        found = await self._ask(lambda: self._offsets.topic(name), about)
        if found is NOWHERE:
            await self._ask(lambda: self._offsets.create(name, said.partitions, said.replication, self._keep), about)
            found = await self._ask(lambda: self._offsets.existing(name), about)
        return found

    def _stand(self, name: str, partitions: Sequence[int], group: str, start: Start | float) -> None:
        """A group that has not been on this topic begins. The end is asked for first: nobody else's is gone past."""
        edge = self._offsets.edge(name, partitions, start)
        if not self._offsets.group(group, name, partitions):
            self._offsets.move(group, name, edge)

    async def join(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> KafkaLine:
        """See Link.join."""
        for topic in topics:
            await self.declare(topic, () if group is None else [group], start)
        names = [self.prefix + topic for topic in topics]
        ledgers: list[Ledger] = []
        for name in names if group is None else ():
            ledgers += await self._ask(partial(self._from, name, start), f"{name} cannot be read")
        consumer = self._consumer(self.prefix + (group or VIEW))
        line = KafkaLine(self, consumer, group or VIEW, remembers=group is not None)
        line.begin(names, ledgers)
        self._lines[line] = None
        return line

    def _from(self, name: str, start: Start | float) -> list[Ledger]:
        return [
            Ledger(name, *place)
            for place in self._offsets.edge(name, self._offsets.topic(name).partitions, start).items()
        ]

    def recall(self, group: str, consumer: Consumer, places: Sequence[Place]) -> list[Ledger]:
        """Where the group stands, in the pump's thread. A partition that is new to it begins with its beginning."""
        found = consumer.committed([TopicPartition(*place) for place in places], timeout=self.lease)
        for each in found:
            if checked(each).offset < 0:
                each.offset = consumer.get_watermark_offsets(each, timeout=ANSWER)[0]
        ledgers = [recalled(each) for each in found]
        said = self._notes.read(places)
        for ledger in ledgers:
            note = said[ledger.topic, ledger.partition].get(group)
            if note is not None and note.name != ledger.place:
                ledger.move(note.name, note.offset)
        return ledgers

    async def lag(self, topic: str, group: str) -> Lag:
        """See Link.lag. How old the oldest is would take reading it: it is not known."""
        self._check()
        behind = partial(self._behind, self.prefix + topic, self.prefix + group)
        return await self._ask(behind, f"the lag of {group} on {topic} is not known")

    def _behind(self, name: str, group: str) -> Lag:
        partitions = self._offsets.topic(name).partitions
        known = self._offsets.group(group, name, partitions) if partitions else {}
        if not known:
            return Lag(None, None)
        ends = self._offsets.edge(name, partitions, Start.LATEST)
        waiting = sum(len(each.past) + max(ends[number] - each.next, 0) for number, each in known.items())
        return Lag(waiting, None)

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Link.seek. Where there are members, they find a note, and this returns when they have obeyed."""
        self._check()
        name, where = self.prefix + topic, self.prefix + group
        about = f"{group} cannot be moved on {topic}"
        partitions = (await self._ask(lambda: self._offsets.topic(name), about)).partitions
        known = await self._ask(lambda: self._offsets.group(where, name, partitions), about) if partitions else {}
        if not known:
            raise BrokerError(f"{about}: there is no such group on it; declare it first.")
        edge = await self._ask(lambda: self._offsets.edge(name, partitions, to), about)
        order = self.clock.id()
        await self._ask(lambda: self._notes.leave(where, name, order, edge), about)
        until = self.clock.monotonic() + 2 * self.lease + LOOK
        while not await self._ask(lambda: self._offsets.move(where, name, edge, order), about):
            known = await self._ask(lambda: self._offsets.group(where, name, partitions), about)
            if all(each.place == order for each in known.values()):
                return
            if self.clock.monotonic() > until:
                raise BrokerError(f"{about} yet: its members have not obeyed; they will when they answer.")
            await self.clock.sleep(AGAIN)

    async def _look(self) -> None:
        """Look whether the topics are still there, and for notes."""
        while True:
            await self.clock.sleep(LOOK)
            if self.clock.monotonic() - self._away < AWHILE:
                continue
            try:
                await self._look_for_topics()
                await self._look_for_notes()
            except BrokerError as error:
                log.debug("%s", error)

    async def _look_for_notes(self) -> None:
        places = sorted({place for line in self._lines if line.remembers for place in line.places()})
        said = await self._ask(partial(self._notes.read, places), "notes cannot be read") if places else {}
        for line in list(self._lines):
            line.heed(said)

    async def _look_for_topics(self) -> None:
        names = [self.prefix + topic for topic in self._known]
        there = await self._ask(partial(self._offsets.topics, names), "topics cannot be seen")
        for topic, known in list(self._known.items()):
            if there.get(self.prefix + topic, NOWHERE).id != known.id:
                await self._begin_anew(topic, known)

    async def _begin_anew(self, topic: str, known: Known) -> None:
        """Somebody has deleted it. All go on with the beginning of what is made again: members find notes of that."""
        name, about = self.prefix + topic, f"topic {topic} was deleted and cannot be made again"
        made = await self._made(name, about)
        log.warning(
            "topic %s was deleted from Kafka; it was made again, and its groups begin with its beginning", topic
        )
        del self._topics[topic]
        await self._ask(partial(self._notes.begin, known.groups, name, made), about)
        for group in known.groups:
            await self._ask(partial(self._stand, name, made.partitions, group, Start.EARLIEST), about)
        for line in self._lines:
            if not line.remembers:
                line.heed({(name, number): {line.group: Note(made.id, 0)} for number in made.partitions})
        known.id = made.id
