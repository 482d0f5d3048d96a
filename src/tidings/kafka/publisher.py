"""Publishing: one idempotent producer, a thread that polls it, and a word to the event loop for each batch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidings.broker import Record
from tidings.errors import Closed, PublishFailed
from tidings.kafka.settings import broker_error
from tidings.kafka.wire import Written

log = logging.getLogger("tidings")

Told = tuple[str, bytes, bytes | None, Written, int]
"""What a producer is told of a record: topic, body, key, headers, and the time in milliseconds."""
Describe = Callable[[Sequence[Record]], list[Told]]

ANY = -1
"""The partition that the key says."""
POLL = 0.2
"""Seconds that the thread waits for reports; a report wakes it at once."""


class Batch:
    """What one call published: counts reports in the thread, and is waited for in the loop."""

    def __init__(self, finished: Callable[[Batch], None]) -> None:
        self.sent = asyncio.get_running_loop().create_future()
        self.expected = -1
        self.failed: list[tuple[Message, KafkaError]] = []
        self._reported = 0
        self._finished = finished

    def report(self, error: KafkaError | None, message: Message) -> None:
        """Of one message, in the thread that polls."""
        self._reported += 1
        if error is not None:
            self.failed.append((message, error))
        if self._reported == self.expected:
            self._finished(self)

    def close(self, count: int) -> None:
        """So many were handed over. Reports may have come already."""
        self.expected = count
        if self._reported == count:
            self.finish()

    def finish(self) -> None:
        """All is reported."""
        if not self.sent.done():
            self.sent.set_result(None)


class Publisher:
    """Safe for the tasks of one event loop.

    `make` makes a producer, again where one has failed for good; `describe` says what to tell it of records.
    `patience` in seconds is how long reports may take.
    """

    def __init__(self, make: Callable[[], Producer], describe: Describe, patience: float) -> None:
        self._make = make
        self._describe = describe
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._finished: deque[Batch] = deque()
        self._space = asyncio.Event()
        self._waiting = 0
        self._open = True
        self._fatal: KafkaException | None = None
        self._producer = make()
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._poll, args=[self._producer], name="tidings-kafka", daemon=True)
        self._thread.start()

    def _poll(self, producer: Producer) -> None:
        """The thread: as long as this is the producer."""
        while self._open and producer is self._producer:
            try:
                served = producer.poll(POLL)
            except KafkaException as error:  # it has failed for good, and says only here why
                self._fatal, served = error, 1
            if served and (self._finished or self._waiting):
                finished = self._reports()
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._tell, finished)

    def _reports(self) -> list[Batch]:
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def _tell(self, finished: list[Batch]) -> None:
        for batch in finished:
            batch.finish()
        self._space.set()

    async def publish(self, records: Sequence[Record]) -> None:
        """See Link.publish."""
        if not self._open:
            raise Closed("the connection to Kafka is closed")
        messages = self._describe(records)
        batch = Batch(self._finished.append)
        failure = await self._hand_over(batch, messages)
        await self._reported(batch, records)
        if failure is not None or batch.failed:
            cause = self._fatal or failure or KafkaException(batch.failed[0][1])
            self._replace(cause)
            unsent = _unsent(batch, records, messages)
            raise PublishFailed(str(broker_error(cause, f"{len(unsent)} records were not published")), unsent)

    async def _hand_over(self, batch: Batch, messages: Sequence[Told]) -> KafkaException | None:
        """To the producer's queue; where that is full, wait. Returns what stopped it."""
        handed, report = 0, batch.report
        try:
            while handed < len(messages):
                produce = self._producer.produce
                try:
                    for topic, value, key, headers, stamp in messages[handed:]:
                        produce(topic, value, key, ANY, report, headers=headers, timestamp=stamp)
                        handed += 1
                except BufferError:
                    await self._room()
                    if not self._open:
                        return KafkaException(KafkaError(KafkaError._PURGE_QUEUE))
        except KafkaException as error:
            return error
        finally:
            batch.close(handed)
        return None

    async def _room(self) -> None:
        self._space.clear()
        self._waiting += 1
        try:
            async with asyncio.timeout(POLL):
                await self._space.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def _reported(self, batch: Batch, records: Sequence[Record]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await batch.sent
        except TimeoutError as error:
            raise PublishFailed(
                f"Kafka has not reported on {len(records)} records in {self._patience:.0f} s.",
                [record.id for record in records],
            ) from error

    def _replace(self, error: KafkaException) -> None:
        """A producer that lost its place in a sequence says so once and takes nothing more: another goes on."""
        if error.args[0].fatal():
            log.warning("Kafka's producer failed for good and is replaced: %s", error.args[0].str())
            self._fatal = None
            self._producer = self._make()
            self._start()

    async def close(self, within: float) -> None:
        """Wait for what is being published, at most `within` seconds; whoever waits is told."""
        if self._open:
            self._open = False
            await asyncio.to_thread(self._end, within)
            self._tell(self._reports())

    def _end(self, within: float) -> None:
        self._producer.flush(within)
        self._producer.purge()  # what is left is reported as not published
        self._producer.flush(POLL)
        self._thread.join(POLL * 5)


def _unsent(batch: Batch, records: Sequence[Record], messages: Sequence[Told]) -> list[str]:
    """The ids of what was not published; a report has a message's body and key, and those that share both are named."""
    failed = {(message.topic(), message.value(), message.key()) for message, _ in batch.failed}
    count = batch.expected
    return [
        record.id
        for index, (record, told) in enumerate(zip(records, messages, strict=True))
        if index >= count or told[:3] in failed
    ]
