"""Members of groups find each other through the broker: each has a queue of its own, and one for each part it has.

A question is published to the queue of the member that has a part, or to a member's own, with the flag `mandatory`:
where there is no such member the broker gives it back. So the broker knows who lives, and no clocks are compared.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec

from tidings.amqp.channel import Channel
from tidings.amqp.wire import Wire, envelope, packed

log = logging.getLogger("tidings")

NO_PROPERTIES = b"\x00\x00"


class Word(msgspec.Struct, omit_defaults=True):
    """What members say to each other. `back` is the queue for the answer; `number` tells answers apart."""

    kind: str
    number: int = 0
    back: str = ""
    place: str = ""
    parts: int = 0
    out: int = 0


SILENT = Word("silent")
"""Instead of the answer of a member that gives none in time, though the broker takes it for alive."""
ANSWER = "answer"
PATIENCE = 1.0
"""Seconds for answers."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Word).decode


class Voice(Channel):
    """The channel on which is spoken, on the connection that publishes. `unheard` is given what found nobody."""

    def __init__(self, wire: Wire, unheard: Callable[[Word], None]) -> None:
        super().__init__(wire)
        self._unheard = unheard

    def say(self, queue: str, word: Word) -> None:
        """Publish to a queue of another member."""
        frames = packed(self.number, NO_PROPERTIES, encode(word), self.wire.fits)
        self.wire.write(envelope(self.number, "", queue, mandatory=True) + frames)

    def returned(self, header: bytes, body: bytes) -> None:
        """See Tap."""
        self._unheard(decode(body))


class Control(Channel):
    """A channel with a queue of its own, for questions and answers. `heard` is given each question.

    The answers go over the wire `voice`: where the broker is short of memory or space it listens no more to connections
    that publish, not even to their acknowledgements, so that those that consume must not.
    """

    def __init__(self, wire: Wire, voice: Wire, mailbox: str, *, heard: Callable[[Word], None] | None = None) -> None:
        super().__init__(wire)
        self.mailbox = mailbox
        self.voice = Voice(voice, self._unheard)
        self._heard = heard
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Word | None]] = {}

    async def open(self) -> Self:
        """See Channel."""
        await super().open()
        try:
            await self.voice.open()
            await self.ask("queue_declare", queue=self.mailbox, exclusive=True)
            await self.listen(self.mailbox)
        except BaseException:
            self.abandon()
            raise
        return self

    async def listen(self, queue: str) -> None:
        """Hear what is said to this queue, which is of this connection alone."""
        await self.ask("basic_consume", queue=queue, on_message_callback=_nobody, auto_ack=True)

    @property
    def usable(self) -> bool:
        """See Channel."""
        return super().usable and self.voice.usable

    def abandon(self) -> None:
        """See Channel."""
        super().abandon()
        self.voice.abandon()

    def say(self, queue: str, word: Word) -> None:
        """Publish to a queue of another member."""
        self.voice.say(queue, word)

    async def inquire(self, queues: Sequence[str], kind: str) -> list[Word | None]:
        """What who has these queues answers; None where nobody has it, or it does not answer in time."""
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Future[Word | None]] = []
        for queue in queues:
            number = next(self._numbers)
            asked.append(loop.create_future())
            self._asked[number] = asked[-1]
            self.say(queue, Word(kind, number, self.mailbox, queue))
        if asked:
            await asyncio.wait(asked, timeout=PATIENCE)
        why = self.why or self.voice.why
        if why is not None:
            raise why
        return [each.result() if each.done() else SILENT for each in asked]

    def delivered(self, tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
        """See Tap."""
        try:
            word = decode(body)
        except msgspec.MsgspecError:
            log.warning("somebody else published to %s, a queue of members: that is ignored", self.mailbox)
            return
        if word.kind == ANSWER:
            self._answered(word.number, word)
        elif self._heard is not None:
            self._heard(word)

    def _unheard(self, word: Word) -> None:
        if word.kind != ANSWER:
            self._answered(word.number, None)

    def _answered(self, number: int, word: Word | None) -> None:
        future = self._asked.pop(number, None)
        if future is not None and not future.done():
            future.set_result(word)


def _nobody(*_: Any) -> None:
    """What pika would tell of a delivery; they are cut out of the stream before."""
