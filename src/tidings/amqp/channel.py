"""A channel of pika with questions that can be awaited, and the one on which is published."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, Self

import pika.exceptions
import pika.spec
from pika.channel import Channel as PikaChannel

from tidings.amqp import content
from tidings.amqp.wire import Wire
from tidings.errors import BrokerError, Unreachable

DEADLINE = 10.0
"""Seconds for an answer of the broker."""
NO_RIGHTS = 403
STANDSTILL = 30.0
"""Seconds without any confirmation until what is being published is taken for lost."""


class Lost(Unreachable):
    """The connection or the channel is gone; there will be another."""


class Refused(BrokerError):
    """The broker refused what was asked, with its code, and closed the channel."""

    def __init__(self, code: int, text: str) -> None:
        remedy = "; grant it with rabbitmqctl set_permissions" if code == NO_RIGHTS else ""
        super().__init__(f"RabbitMQ refuses this: {text} ({code}){remedy}")
        self.code = code


class Channel:
    """A channel; a tap for what is cut out of the stream, which takes nothing by itself."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.why: BrokerError | None = None
        self._waiting: set[asyncio.Future[Any]] = set()
        self._farewell: asyncio.Future[Any] | None = None
        self._opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self.raw: PikaChannel = wire.channel(on_open_callback=self._opened_now)
        except pika.exceptions.AMQPError as error:
            raise Lost("the connection to RabbitMQ was lost") from error
        self.number = int(self.raw.channel_number)

    async def open(self) -> Self:
        """Open it, and take what comes for it."""
        self.raw.add_on_close_callback(self._closed_now)
        self._waiting.add(self._opened)
        try:
            await self._answer(self._opened)
        except BaseException:
            self.abandon()
            raise
        self.wire.taps[self.number] = self
        return self

    def _opened_now(self, _: Any) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _closed_now(self, _: Any, reason: BaseException) -> None:
        if self.wire.taps.get(self.number) is self:
            del self.wire.taps[self.number]
        if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            self.why = Refused(int(reason.reply_code), str(reason.reply_text))
        else:
            self.why = Lost("the connection to RabbitMQ was lost")
        if self._farewell is not None and not self._farewell.done():
            self._farewell.set_result(None)
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_exception(self.why)
                future.exception()  # who waits for it may have been cancelled
        self.ended(self.why)

    def ended(self, why: BrokerError) -> None:
        """It is closed."""

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self.why is None and self.raw.is_open

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of pika's channel and wait for the answer. Raises Refused or Lost."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(*frames: Any) -> None:
            if not future.done():
                future.set_result(frames[-1] if len(frames) == 1 else frames)

        self._call(method, callback=answered, **arguments)
        self._waiting.add(future)
        return await self._answer(future)

    def tell(self, method: str, **arguments: Any) -> None:
        """Call a method of pika's channel that is not answered; what is asked next raises where it was refused."""
        self._call(method, callback=None, **arguments)

    def _call(self, method: str, **arguments: Any) -> None:
        if not self.usable:
            raise self.why or Lost("the channel to RabbitMQ is closed")
        try:
            getattr(self.raw, method)(**arguments)
        except pika.exceptions.AMQPError as error:
            raise Lost("the connection to RabbitMQ was lost") from error

    async def _answer(self, future: asyncio.Future[Any]) -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                return await future
        except TimeoutError:
            raise Lost(f"RabbitMQ does not answer within {DEADLINE:g} seconds") from None
        finally:
            self._waiting.discard(future)

    def acknowledge(self, tag: int) -> None:
        """All up to this one are dealt with. Nothing where the channel is closed: they come again."""
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.raw.basic_ack(tag, multiple=True)

    def abandon(self) -> None:
        """Close it, and wait for nothing."""
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.raw.close()

    async def get(self, queue: str) -> tuple[int, bytes] | None:
        """The first message of a queue, with its tag; None where there is none."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def got(*found: Any) -> None:
            if not future.done():
                future.set_result((found[1].delivery_tag, found[3]) if len(found) > 1 else None)

        if not self.usable:
            raise self.why or Lost("the channel to RabbitMQ is closed")
        try:
            self.raw.add_callback(got, [pika.spec.Basic.GetEmpty], one_shot=True)
            self.raw.basic_get(queue, callback=got)
        except pika.exceptions.AMQPError as error:
            raise Lost("the connection to RabbitMQ was lost") from error
        self._waiting.add(future)
        found: tuple[int, bytes] | None = await self._answer(future)
        return found

    async def close(self) -> None:
        """Close it and wait until the broker has."""
        if self.usable:
            self._farewell = asyncio.get_running_loop().create_future()
            self.abandon()
            await self._answer(self._farewell)

    # -- what is cut out of the stream

    def delivered(self, tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
        """See Tap."""

    def returned(self, header: bytes, body: bytes) -> None:
        """See Tap."""

    def confirmed(self, tag: int, multiple: bool, kept: bool) -> None:
        """See Tap."""

    def passed(self) -> bool:
        """See Tap."""
        return False


class Batch:
    """What is published together: how much of it is not confirmed yet, what could not be kept."""

    __slots__ = ("future", "left", "refused")

    def __init__(self, size: int) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = size
        self.refused: list[int] = []

    def settle(self) -> None:
        """One less."""
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(None)


class Publisher(Channel):
    """A channel in confirm mode. `homeless` are the ids of what was mandatory and went to no queue."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.homeless: set[str] = set()
        self._next = 1
        self._pending: dict[int, Batch] = {}

    async def open(self) -> Self:
        """See Channel."""
        await super().open()
        try:
            await self.ask("confirm_delivery", ack_nack_callback=lambda _: None)
        except BaseException:
            self.abandon()
            raise
        return self

    def start(self, messages: Sequence[bytes]) -> tuple[int, Batch]:
        """Send messages in this order, each as its frames. The number of the first, and what tells how it went."""
        if not self.usable:
            raise self.why or Lost("the channel to RabbitMQ is closed")
        first, batch = self._next, Batch(len(messages))
        self._next += len(messages)
        self._pending.update(dict.fromkeys(range(first, self._next), batch))
        self.wire.write(b"".join(messages))
        return first, batch

    async def finish(self, batch: Batch) -> None:
        """Wait until the broker has said what became of all of it. Raises Refused or Lost."""
        while not batch.future.done():
            left = batch.left
            await asyncio.wait([batch.future], timeout=STANDSTILL)
            if not batch.future.done() and batch.left == left:
                raise Lost(
                    f"RabbitMQ has confirmed nothing for {STANDSTILL:g} s: an alarm (memory, disk), or no majority?"
                )
        batch.future.result()

    def unsettled(self, first: int, size: int, batch: Batch) -> list[int]:
        """Which of a batch, counted from 0, may not be kept."""
        refused = {tag - first for tag in batch.refused}
        return [n for n in range(size) if n in refused or self._pending.get(first + n) is batch]

    def confirmed(self, tag: int, multiple: bool, kept: bool) -> None:
        """See Tap."""
        pending = self._pending
        tags = list(itertools.takewhile(lambda each: each <= tag, pending)) if multiple else (tag,)
        for each in tags:
            batch = pending.pop(each, None)
            if batch is not None:
                if not kept:
                    batch.refused.append(each)
                batch.settle()

    def returned(self, header: bytes, body: bytes) -> None:
        """See Tap. It comes before the confirmation."""
        self.homeless.add(content.record("", header, body, "").id)

    def ended(self, why: BrokerError) -> None:
        """See Channel."""
        for batch in set(self._pending.values()):
            if not batch.future.done():
                batch.future.set_exception(why)
                batch.future.exception()
