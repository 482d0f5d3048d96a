"""The one thread that talks to a consumer: it pulls, commits, and hands partitions over.

confluent-kafka lets one thread into a consumer at a time, and nothing wakes one that waits in it for messages. So this
waits there only while nothing is out and nothing can be asked of it; else it waits for what is asked, and looks for
messages in between.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tidings.clock import Clock
from tidings.kafka.ledger import Ledger
from tidings.kafka.wire import Received

log = logging.getLogger("tidings")

IDLE = 0.1
"""Seconds in which nothing is asked while nothing is out: what is asked all the same waits so long."""
FIRST, LAST = 0.0005, 0.02
"""Seconds between two looks for messages while something is out: shorter after each that found some."""
FULL = 0.1
BATCH = 1000
ROOM = 2 * BATCH
ROOM_BYTES = 16 << 20
"""What is pulled and not lent: no more is pulled beyond."""
RESTART = 1.0

Place = tuple[str, int]
Recall = Callable[[Consumer, Sequence[Place]], list[Ledger]]
Then = Callable[[KafkaException | None], None]


class Line(Protocol):
    """What the pump tells, in the event loop."""

    lease: float

    def arrived(self, messages: list[Received]) -> None:
        """These were pulled."""
        ...

    def complain(self, error: KafkaException) -> None:
        """The consumer does not work; it is tried again."""
        ...

    def own(self, ledgers: list[Ledger]) -> None:
        """These partitions came."""
        ...

    def leave(self, places: list[Place], patience: float, let_go: Callable[[], None]) -> None:
        """These partitions go when `let_go` is called, which must be soon after `patience` seconds."""
        ...


class Pump:
    """The thread of one consumer. `quiet`, `waiting` and `waiting_bytes` are the loop's, who keeps them right."""

    def __init__(self, consumer: Consumer, line: Line, clock: Clock, recall: Recall) -> None:
        self.quiet = True
        self.waiting = 0
        self.waiting_bytes = 0
        self.silent = False
        """Whether to do nothing more, as if the process were stopped: for tests."""
        self.ended = asyncio.Event()
        self._consumer = consumer
        self._line = line
        self._clock = clock
        self._recall = recall
        self._loop = asyncio.get_running_loop()
        self._asked = threading.Event()
        self._commits: deque[tuple[list[TopicPartition], Then]] = deque()
        self._seeks: deque[tuple[TopicPartition, Callable[[], None]]] = deque()
        self._pulled: list[Received] = []
        self._on_the_way = 0
        self._told = 0
        self._paused = False
        self._astray = False
        self._ending = False
        self._topics: list[str] = []
        self._heard = self._polled = clock.monotonic()

    # -- in the loop

    def start(self, topics: Sequence[str]) -> None:
        """Join the group with these topics; with none the partitions are assigned already."""
        self._topics = list(topics)
        if topics:
            self._subscribe()
        self._thread = threading.Thread(target=self._run, name="tidings-kafka", daemon=True)
        self._thread.start()

    def commit(self, places: list[TopicPartition], then: Then) -> None:
        """Commit these; `then` is called in the loop with what went wrong."""
        self._commits.append((places, then))
        self._asked.set()

    def seek(self, place: Place, offset: int, then: Callable[[], None]) -> None:
        """Pull on from this offset; `then` is called in the loop before what is pulled there arrives."""
        self._seeks.append((TopicPartition(*place, offset), then))
        self._asked.set()

    def wake(self) -> None:
        """There is room again."""
        self._asked.set()

    def stop(self) -> None:
        """Pull no more, serve what was asked, leave the group; then `ended` is set."""
        self._ending = True
        self._asked.set()

    def _arrived(self, messages: list[Received], size: int) -> None:
        self._told += 1
        self.quiet = False
        self.waiting += len(messages)
        self.waiting_bytes += size
        self._line.arrived(messages)

    def _tick(self) -> None:
        self._heard = self._clock.monotonic()

    # -- in the thread

    def _run(self) -> None:
        pause = FIRST
        while not self._ending:
            self._asked.clear()
            if self.silent:
                self._asked.wait(IDLE)
                continue
            served = self._serve()
            try:
                found = self._look()
            except KafkaException as error:
                log.warning("Kafka's consumer failed, it is tried again: %s", error.args[0].str())
                self._in_loop(self._line.complain, error)
                self._asked.wait(RESTART)
                continue
            pause = FIRST if found or served else min(2 * pause, LAST)
            if not self._at_rest():
                self._asked.wait(pause if self._has_room() else FULL)
        if not self.silent:
            self._serve()
            self._consumer.close()
        self._in_loop(self.ended.set)

    def _look(self) -> bool:
        """Pull what is there. Even without room the consumer is called: partitions come and go in it."""
        if not self._loop_lives():
            return False
        consumer = self._consumer
        if self._astray:
            self._astray = False
            consumer.unsubscribe()
            self._subscribe()
        while self._seeks:
            place, then = self._seeks.popleft()
            if any((each.topic, each.partition) == (place.topic, place.partition) for each in consumer.assignment()):
                consumer.seek(place)
                self._in_loop(then)
        room = self._has_room()
        now = self._clock.monotonic()
        if not room and now - self._polled < FULL:
            return False
        self._polled = now
        if room is self._paused:  # pausing throws away what librdkafka has fetched: only where it takes longer
            (consumer.resume if room else consumer.pause)(consumer.assignment())
            self._paused = not room
        if not self._pulled:
            self._pulled = cast(list[Received], consumer.consume(1, IDLE if self._at_rest() else 0))
        if self._pulled and room:
            self._pulled += cast(list[Received], consumer.consume(BATCH, 0))  # in which partitions may go
        pulled, self._pulled = self._pulled, []
        if pulled:
            self._on_the_way += 1
            self._in_loop(self._arrived, pulled, sum(map(len, pulled)))
        return bool(pulled)

    def _at_rest(self) -> bool:
        return self.quiet and self._on_the_way == self._told and not self._commits

    def _has_room(self) -> bool:
        return self.waiting < ROOM and self.waiting_bytes < ROOM_BYTES and self._on_the_way == self._told

    def _loop_lives(self) -> bool:
        """Whether the event loop turns. Where it does not for a lease, nothing is polled, and the group goes on."""
        now = self._clock.monotonic()
        if self.quiet or now - self._heard < self._line.lease / 4:
            self._heard = max(self._heard, now) if self.quiet else self._heard
            return True
        self._in_loop(self._tick)
        return now - self._heard < self._line.lease

    def _serve(self) -> bool:
        served = bool(self._commits)
        while self._commits:
            places, then = self._commits.popleft()
            self._in_loop(then, self._commit(places))
        return served

    def _commit(self, places: list[TopicPartition]) -> KafkaException | None:
        try:
            for each in self._consumer.commit(offsets=places, asynchronous=False) or ():
                if each.error is not None:
                    return KafkaException(each.error)
        except KafkaException as error:
            return error
        return None

    def _subscribe(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        try:
            ledgers = self._recall(consumer, [(each.topic, each.partition) for each in places])
        except KafkaException as error:
            log.warning("A member cannot learn where its group stands, and joins anew: %s", error.args[0].str())
            self._astray = True
            return
        consumer.incremental_assign([TopicPartition(each.topic, each.partition, each.floor) for each in ledgers])
        self._in_loop(self._line.own, ledgers)
        (consumer.pause if self._paused else consumer.resume)(places)  # one that was paused and went comes back so

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._part(consumer, places, self._line.lease)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._part(consumer, places, 0.0)

    def _part(self, consumer: Consumer, places: list[TopicPartition], patience: float) -> None:
        """Wait until the loop has let go of them, and commit meanwhile."""
        gone = [(each.topic, each.partition) for each in places]
        let_go = threading.Event()
        if gone and not self._ending and self._in_loop(self._line.leave, gone, patience, let_go.set):
            while not let_go.is_set():
                self._asked.clear()
                self._serve()
                self._asked.wait(LAST)
        self._pulled = [each for each in self._pulled if (each.topic(), each.partition()) not in gone]
        consumer.incremental_unassign(places)

    def _in_loop(self, call: Callable[..., object], *args: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._ending = True
            return False
        return True
