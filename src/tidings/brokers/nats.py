"""NATS JetStream: a stream for each topic, and for each group and part a cursor in a key-value bucket.

The guide (docs/guide/nats.md) has the layout for other clients.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from tidings.broker import Feature, Lag, Record, Start
from tidings.clock import Clock
from tidings.errors import BodyTooLarge, BrokerError, ConfigError, PublishFailed
from tidings.jetstream import address, content, naming
from tidings.jetstream.cursor import State, encode
from tidings.jetstream.naming import HEADROOM, METADATA, Topic
from tidings.link import Line

try:
    from tidings.jetstream import server
    from tidings.jetstream.connection import Connection
    from tidings.jetstream.group import look
    from tidings.jetstream.line import GroupLine
    from tidings.jetstream.part import compare_and_put
    from tidings.jetstream.view import ViewLine
    from tidings.jetstream.wire import Answer, Question
except ModuleNotFoundError as missing:
    raise ConfigError("NATS needs its client: pip install 'tidings[nats]'") from missing

LEASE = 30.0
OLDEST = (2, 11)
IN_FLIGHT = 1000
"""How many messages are on their way at a time."""


class NatsLink:
    """See Link. `keep` is for how many seconds topics that are made keep records; None for ever."""

    features = Feature.DURABLE | Feature.ORDERED | Feature.REPLAY | Feature.UNIQUE

    def __init__(self, url: str, clock: Clock, *, lease: float = LEASE, keep: float | None = None) -> None:
        self._address = address.parse(url)
        self._clock = clock
        self._lease = self._address.lease or lease
        self._keep = None if keep is None or math.isinf(keep) else keep
        self._connection = Connection(self._address, clock)
        self._bucket = f"KV_{self._address.prefix}"
        self._topics: dict[str, Topic] = {}
        self.limit: int | None = None

    async def open(self) -> None:
        """See Link."""
        await self._connection.open()
        wire = self._connection.wire()
        version = wire.connected_server_version
        if (version.major, version.minor) < OLDEST:
            raise BrokerError(
                f"the NATS server is of version {version.major}.{version.minor}: update it to 2.11 or later"
            )
        self.limit = wire.max_payload - HEADROOM
        await server.stream(wire, self._bucket, self._bucket_config())

    def _bucket_config(self) -> dict[str, object]:
        return {
            "subjects": [f"$KV.{self._address.prefix}.>"], "max_msgs_per_subject": 1, "storage": "file",
            "discard": "new", "allow_direct": True, "allow_rollup_hdrs": True, "deny_delete": True,
            "allow_msg_ttl": True, "num_replicas": self._address.replicas,
        }  # fmt: skip

    async def close(self) -> None:
        """See Link."""
        await self._connection.close()

    async def _topic(self, name: str) -> Topic:
        if (topic := self._topics.get(name)) is None:
            topic, _ = await self._stream(name)
        return topic

    async def _stream(self, name: str) -> tuple[Topic, server.Stream]:
        """The topic and where its stream is, made where there is none."""
        plan = naming.topic(self._address.prefix, name, self._address.parts)
        root = f"{self._address.prefix}.{naming.token(name)}"
        found = await server.stream(self._connection.wire(), plan.stream, self._stream_config(root))
        parts = found.config.metadata.get(METADATA, "")
        if not parts.isdigit() or found.config.storage != "file" or found.config.retention != "limits":
            raise BrokerError(
                f"the stream {plan.stream} is not one of tidings (storage file, retention limits, metadata "
                f"{METADATA}): use another prefix (?prefix=), or delete it with `nats stream rm {plan.stream}`"
            )
        topic = self._topics[name] = naming.topic(self._address.prefix, name, int(parts))
        return topic, found

    async def _find(self, name: str) -> server.Stream:
        return (await self._stream(name))[1]

    def _stream_config(self, root: str) -> dict[str, object]:
        window = min(self._address.window, self._keep or self._address.window)
        return {
            "subjects": [root, f"{root}.*"], "subject_transform": {"src": root, "dest": f"{root}.0"},
            "storage": "file", "retention": "limits", "discard": "old", "allow_direct": True,
            "max_age": 0 if self._keep is None else int(self._keep * 1e9), "duplicate_window": int(window * 1e9),
            "num_replicas": self._address.replicas, "metadata": {METADATA: str(self._address.parts)},
        }  # fmt: skip

    async def declare(self, topic: str, groups: Sequence[str], start: Start | float = Start.LATEST) -> None:
        """See Link."""
        wire = self._connection.wire()
        where, found = await self._stream(topic)
        if not groups:
            return
        read = await server.position(wire, where, found.state, start)
        questions: list[Question] = []
        for group in groups:
            place = naming.place(self._address.prefix, topic, group)
            questions += [
                compare_and_put(place.part(number), 0, encode(State(read, found.created)))
                for number in range(len(where.subjects))
            ]
        for answer in await wire.ask(questions, server.MANY):
            try:
                server.acked(answer)
            except server.Refused as refused:
                if refused.number != server.WRONG_REVISION:  # that is: the group exists
                    raise

    async def publish(self, records: Sequence[Record]) -> None:
        """See Link."""
        try:
            topics = {name: await self._topic(name) for name in {record.topic for record in records}}
            wire = self._connection.wire()
        except BrokerError as error:
            raise PublishFailed(str(error), [record.id for record in records]) from error
        questions = [self._message(topics[record.topic], record, wire.max_payload) for record in records]
        for first in range(0, len(questions), IN_FLIGHT):
            answers = await wire.ask(questions[first : first + IN_FLIGHT], server.MANY)
            problem: BrokerError | None = None
            unsent: list[str] = []
            for record, answer in zip(records[first:], answers, strict=False):
                try:
                    server.acked(answer)
                except BrokerError as error:
                    problem = problem or error
                    self._topics.pop(record.topic, None)  # its stream may have been deleted
                    unsent.append(record.id)
            if problem is not None:
                unsent += [record.id for record in records[first + IN_FLIGHT :]]
                why = f"{problem} ({wire.trouble})" if wire.trouble is not None else str(problem)
                raise PublishFailed(f"{len(unsent)} records may not be kept: {why}", unsent) from problem

    def _message(self, topic: Topic, record: Record, largest: int) -> Question:
        headers, value = content.message(record)
        size = len(headers) + len(value)
        if len(record.value) > largest - HEADROOM or size > largest:
            raise BodyTooLarge(
                f"A message of {size} bytes for topic {record.topic}, headers and all, is over the limit of the NATS "
                f"server (max_payload {largest}, of which {HEADROOM} are for headers); publish a reference instead."
            )
        return Question(topic.subject(record.key, record.id), value, headers)

    async def join(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> Line:
        """See Link."""
        if group is None:
            view = ViewLine(self._connection, self._clock, find=self._find, starts=await self._starts(topics, start))
            await view.open()
            return view
        for topic in topics:
            await self.declare(topic, [group], start)
        places = [(await self._topic(name), naming.place(self._address.prefix, name, group)) for name in topics]
        line = GroupLine(self._connection, self._clock, find=self._find, lease=self._lease, places=places)
        await line.open()
        return line

    async def _starts(self, topics: Sequence[str], start: Start | float) -> dict[Topic, int]:
        starts: dict[Topic, int] = {}
        for name in topics:
            topic, found = await self._stream(name)
            starts[topic] = await server.position(self._connection.wire(), topic, found.state, start)
        return starts

    async def lag(self, topic: str, group: str) -> Lag:
        """See Link."""
        wire = self._connection.wire()
        sight = await look(wire, self._bucket, naming.place(self._address.prefix, topic, group))
        if not sight.parts:
            return Lag(None, None)
        where = await self._topic(topic)
        states = {number: seen.state for number, seen in sight.parts.items()}
        found = [server.ahead(wire, where.stream, where.subjects[n], state.read + 1) for n, state in states.items()]
        open_ones = sorted(sequence for state in states.values() for sequence in (*state.out, *state.back))
        if open_ones:
            found.append(server.ahead(wire, where.stream, where.all, open_ones[0]))
        told = await asyncio.gather(*found)
        since = min((each.since for each in told if each.since is not None), default=None)
        waiting = sum(each.messages for each in told[: len(states)]) + len(open_ones)
        return Lag(waiting, 0.0 if since is None else max(0.0, self._clock.now() - since))

    async def seek(self, topic: str, group: str, to: Start | float) -> None:
        """See Link."""
        wire = self._connection.wire()
        place = naming.place(self._address.prefix, topic, group)
        left = (await look(wire, self._bucket, place)).parts
        if not left:
            raise BrokerError(f"there is no group {group} on topic {topic}")
        where, found = await self._stream(topic)
        read = encode(State(await server.position(wire, where, found.state, to), found.created))
        while left:  # its member may be writing
            questions = [compare_and_put(place.part(number), seen.revision, read) for number, seen in left.items()]
            answers = dict(zip(left, await wire.ask(questions, server.DEADLINE), strict=True))
            again = [number for number, answer in answers.items() if not self._moved(answer)]
            left = {number: (await look(wire, self._bucket, place)).parts[number] for number in again}
        wire.post(b"PUB %b 0\r\n\r\n" % place.wake)

    @staticmethod
    def _moved(answer: Answer | None) -> bool:
        """Whether it was written; False where somebody else has written in between."""
        try:
            return server.acked(answer) > 0
        except server.Refused as refused:
            if refused.number != server.WRONG_REVISION:
                raise
            return False
