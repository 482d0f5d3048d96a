"""Publishes what tasks of this process want to have published, together: one at a time is on its way.

An id that the server has seen within the window is not kept again, so what is in doubt may be published once more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from tidings.broker import Record
from tidings.errors import BodyTooLarge, BrokerError, Closed, InvalidEvent, PublishFailed
from tidings.redis import content
from tidings.redis.connection import Connection
from tidings.redis.naming import Topic
from tidings.redis.scripts import PUBLISH
from tidings.redis.wire import Lost, Refused, Wire

MANY = 20.0
"""Seconds in which the server answers what is long."""
TOGETHER, BYTES = 500, 1 << 20
"""How much the server is given at once: it does nothing else meanwhile."""
MOST_WORDS = 6000
"""Of fields and values of an entry: what a script of the server can hand on."""
REPLICAS = 2.0
"""Seconds to wait for replicas."""

Words = list[str | bytes]


class Piece(NamedTuple):
    """A record, ready to be sent."""

    topic: str
    key: str | None
    id: str
    words: Words


def _encodable(record: Record) -> None:
    try:
        "".join(record.headers).encode()
    except UnicodeError as error:
        raise InvalidEvent(f"The name of a header for topic {record.topic} is no text: {error}") from error


class Job:
    """What one task wants to have published. `unsent` and `problem` say what came of it."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.unsent: list[str] = []
        self.problem: BrokerError | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Publisher:
    """`window` is in seconds; `topic` says how a topic is on the server, anew where that has changed."""

    def __init__(
        self, connection: Connection, topic: Callable[[str, bool], Awaitable[Topic]], *, window: float, replicas: int
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._window = int(window * 1000)
        self._replicas = replicas
        self._jobs: deque[Job] = deque()
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.limit = 0

    def open(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="redis-publisher")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for ever, whatever ends the task."""
        for job in self._jobs:
            if not job.over.done():
                job.over.set_exception(Closed("publishing to Redis has ended"))

    async def close(self) -> None:
        """When what is to be published is kept, or cannot be."""
        task, self._task = self._task, None
        if task is not None:
            while self._jobs:
                await asyncio.wait([self._jobs[-1].over])
            task.cancel()
            await asyncio.wait([task])

    async def publish(self, records: Sequence[Record]) -> None:
        """See Link.publish."""
        if self._task is None or self._task.done():
            raise Closed("the connection to Redis is not open")
        job = Job([self._piece(record) for record in records])
        self._jobs.append(job)
        self._stir.set()
        await job.over
        if job.problem is not None:
            raise PublishFailed(f"{len(job.unsent)} records may not be kept: {job.problem}", job.unsent)

    def _piece(self, record: Record) -> Piece:
        if len(record.value) > self.limit:
            raise BodyTooLarge(
                f"A body of {len(record.value)} bytes for topic {record.topic} is over the limit of the Redis server "
                f"(proto-max-bulk-len {self.limit}); publish a reference instead."
            )
        if not all(map(str.isascii, record.headers)):
            _encodable(record)
        words = content.words(record)
        if len(words) > MOST_WORDS:
            raise InvalidEvent(
                f"A record for topic {record.topic} has {len(record.headers)} headers; {MOST_WORDS // 2 - 8} are taken"
            )
        return Piece(record.topic, record.key, record.id, words)

    async def _run(self) -> None:
        while True:
            await self._stir.wait()
            self._stir.clear()
            while self._jobs:
                jobs: list[Job] = []
                count = 0
                while len(jobs) < len(self._jobs) and (not jobs or count < TOGETHER):
                    jobs.append(self._jobs[len(jobs)])
                    count += len(jobs[-1].pieces)
                await self._publish([job for job in jobs if not job.over.cancelled()])
                for _ in jobs:
                    job = self._jobs.popleft()
                    if not job.over.done():
                        job.over.set_result(None)

    async def _publish(self, jobs: Sequence[Job]) -> None:
        """Topic by topic, in order. What follows something of a topic that failed is not tried."""
        by_topic: dict[str, list[tuple[Job, Piece]]] = {}
        for job in jobs:
            for piece in job.pieces:
                by_topic.setdefault(piece.topic, []).append((job, piece))
        for name, pieces in by_topic.items():
            first = 0
            while first < len(pieces):
                last = self._end(pieces, first)
                try:
                    problems = await self._send(name, pieces[first:last])
                except BrokerError as error:
                    problems = dict.fromkeys(range(len(pieces) - first), error)
                    last = len(pieces)
                for number, problem in problems.items():
                    job, piece = pieces[first + number]
                    job.unsent.append(piece.id)
                    job.problem = job.problem or problem
                first = last

    @staticmethod
    def _end(pieces: Sequence[tuple[Job, Piece]], first: int) -> int:
        """Up to where to send at once."""
        size, last = 0, first
        while last < len(pieces) and last - first < TOGETHER and (size < BYTES or last == first):
            size += len(pieces[last][1].words[-1])
            last += 1
        return last

    async def _send(self, name: str, pieces: Sequence[tuple[Job, Piece]]) -> dict[int, BrokerError]:
        """Which of these may not be kept, and why. Raises a BrokerError for all of them."""
        wire = self._connection.wire()
        topic = await self._topic(name, False)
        answer = await self._call(wire, topic, pieces)
        if isinstance(answer, int):  # somebody has made the topic anew, with other parts
            topic = await self._topic(name, True)
            answer = await self._call(wire, topic, pieces)
        if isinstance(answer, int):
            raise Lost(f"topic {name} has changed its parts again and again")
        if self._replicas:
            await self._wait(wire)
        return {number: wire.refused(said) for number, said in answer}

    async def _call(
        self, wire: Wire, topic: Topic, pieces: Sequence[tuple[Job, Piece]]
    ) -> int | list[tuple[int, bytes]]:
        words: list[str | bytes | int] = [len(topic.streams), self._window]
        for _, piece in pieces:
            words += (topic.part(piece.key, piece.id), piece.id, len(piece.words))
            words += piece.words
        found: int | list[tuple[int, bytes]] = await wire.run(
            PUBLISH, (topic.root, *topic.ids, *topic.streams), words, timeout=MANY
        )
        return found

    async def _wait(self, wire: Wire) -> None:
        have = await wire.ask("WAIT", self._replicas, int(REPLICAS * 1000))
        if have < self._replicas:
            raise Refused(
                f"{have} of the {self._replicas} replicas that are asked for (?replicas=) have it after "
                f"{REPLICAS:g} seconds", "REPLICAS",
            )  # fmt: skip
