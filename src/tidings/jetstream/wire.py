"""One connection to a NATS server: nats-py connects, signs in and notices that it is dead; messages go in batches here.

nats-py takes 30 to 50 microseconds a message (three regular expressions, a dictionary of headers, a queue and a
coroutine each). Its parser is replaced by one that hands the frames of what was read to plain functions, and what is
sent is written at once. A connection that is lost is not mended: another one is made, and nothing of the old is left.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.errors import Error
from nats.protocol.parser import Parser

from tidings.errors import Unreachable

log = logging.getLogger("tidings")

Sink = Callable[[bytes, bytes, bytes, bytes], None]
"""What takes a message: subject, reply subject, headers and body, as they were sent."""

HEARTBEAT = 5.0
"""Seconds between pings: after two that were not answered the connection is dead."""
FAREWELL = 1.0
"""Seconds for closing a connection in order; then it is dropped."""
TOGETHER = 1 << 18
"""How many bytes are written at once."""
END = (b"204", b"404", b"408", b"503")
"""The states that end an answer of many messages."""


class Lost(Unreachable):
    """The connection is gone, or what was asked was not answered in time: whether it was done is not known."""


class Question(NamedTuple):
    """What is sent to a subject and answered once."""

    subject: bytes
    data: bytes = b""
    headers: bytes = b""


class Answer(NamedTuple):
    """What was answered. `status` is that of an answer without a message: 503 where nobody listens."""

    headers: bytes
    data: bytes

    @property
    def status(self) -> bytes:
        """Three digits, or nothing."""
        return self.headers[9:12] if self.headers[8:9] == b" " else b""


def frame(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> bytes:
    """A message as the protocol has it."""
    if headers:
        size = len(headers)
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, size, size + len(data), headers, data)
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(data), data)


class Frames(Parser):
    """Takes what was read apart. Messages go to the sink of their subscription, the rest to the parser of nats-py."""

    def __init__(self, client: Client, sinks: dict[bytes, Sink]) -> None:
        super().__init__(client)
        self._sinks = sinks
        self._read = bytearray()
        self._missing = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take a piece of the stream, which may begin and end anywhere."""
        if self._read:
            self._read += data
            if len(self._read) < self._missing:
                return
            data = bytes(self._read)
        start = self._messages(data)
        while (end := data.find(b"\r\n", start)) >= 0 and data[start] not in b"MH":
            await super().parse(data[start : end + 2])
            start = self._messages(data, end + 2)
        self._read = bytearray(memoryview(data)[start:])

    def _messages(self, data: bytes, start: int = 0) -> int:
        """Hand on the messages from `start`; returns where the first thing is that is none, or not all there."""
        find, size, sinks = data.find, len(data), self._sinks
        self._missing = 0
        while start < size and data[start] in b"MH" and (end := find(b"\r\n", start)) >= 0:
            words = data[start:end].split(b" ")
            body = end + 2
            after = body + int(words[-1])
            if after + 2 > size:
                self._missing = after + 2 - start
                break
            split = body + int(words[-2]) if data[start] == 72 else body
            reply = words[3] if len(words) - (split != body) == 5 else b""
            if (sink := sinks.get(words[2])) is not None:
                sink(words[1], reply, data[body:split], data[split:after])
            start = after + 2
        return start


class Wire(Client):
    """A connection. `lost` is called once, when it ends without having been closed."""

    def __init__(self, lost: Callable[[], None], *, wants_tls: bool = False) -> None:
        super().__init__()
        self._sinks: dict[bytes, Sink] = {}
        self._ps = Frames(self, self._sinks)
        self._lost: Callable[[], None] | None = lost
        self._rounds: dict[int, Round] = {}
        self._numbers = itertools.count()
        self._names = itertools.count(1)
        self._inbox = b""
        self.trouble: Exception | None = None
        self._wants_tls = wants_tls

    async def dial(self, server: str, **options: Any) -> None:
        """Connect to this server, once. Raises what nats-py raises, or the OSError behind it."""
        try:
            await self.connect(
                server,
                error_cb=self._note,
                allow_reconnect=False,
                ping_interval=HEARTBEAT,  # type: ignore[arg-type]  # any number will do
                max_outstanding_pings=1,
                **options,
            )
        except BaseException:
            await self.close()
            raise
        self._inbox = self.new_inbox().encode() + b"."
        self.listen(self._inbox + b"*", self._answered)

    async def _note(self, error: Exception) -> None:
        self.trouble = error

    async def _select_next_server(self) -> None:
        """Once: who dials decides when it is tried again."""
        self._current_server = self._server_pool[0]
        await self._connect_to_server(self._current_server)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Before anything secret is sent: where TLS is wanted, a server without it gets nothing."""
        if initial_connection and self._wants_tls:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise Error("the server offers no TLS")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._end()
        writer = self._writer
        try:
            async with asyncio.timeout(FAREWELL):  # a peer that is silent must not keep us
                await super()._close(status, do_cbs)
        except (TimeoutError, OSError):
            if writer is not None:
                writer.transport.abort()

    def _end(self) -> None:
        lost, self._lost = self._lost, None
        for round in set(self._rounds.values()):
            round.end()
        self._rounds.clear()
        if lost is not None and self._inbox:
            lost()

    async def hang_up(self) -> None:
        """Close it; nobody is told."""
        self._lost = None
        await self.close()

    @property
    def server_id(self) -> str:
        """The server's own name for itself."""
        return str(self._server_info.get("server_id", ""))

    @property
    def has_jetstream(self) -> bool:
        """Whether the server has JetStream, though it may not answer just now."""
        return bool(self._server_info.get("jetstream"))

    @property
    def _writer(self) -> asyncio.StreamWriter | None:
        return getattr(self._transport, "_io_writer", None)

    def listen(self, subject: bytes, sink: Sink) -> bytes:
        """Have messages on this subject brought to `sink`; returns what `deafen` takes."""
        name = b"%d" % next(self._names)
        self._sinks[name] = sink
        self.post(b"SUB %b %b\r\n" % (subject, name))
        return name

    def deafen(self, name: bytes) -> None:
        """No more of that."""
        self._sinks.pop(name, None)
        if self.is_connected:
            self.post(b"UNSUB %b\r\n" % name)

    def post(self, frames: bytes) -> None:
        """Write this, without waiting for the peer. For what is small."""
        writer = self._writer
        if not self.is_connected or writer is None:
            raise Lost("the connection to the NATS server is lost")
        if not writer.is_closing():  # else the client is told of it next, and asyncio would log each try
            writer.write(frames)

    async def send(self, frames: bytes) -> None:
        """Write this when the peer has taken what was written before."""
        self.post(frames)
        try:
            if self._transport is not None:
                await self._transport.drain()  # type: ignore[no-untyped-call]
        except OSError as error:
            raise Lost(f"the connection to the NATS server is lost: {error}") from error

    async def ask(self, questions: Sequence[Question], timeout: float) -> list[Answer | None]:
        """Send all, in this order, and wait at most `timeout` seconds for an answer to each; None where none came."""
        round = Round(len(questions))
        numbers = list(itertools.islice(self._numbers, len(questions)))
        round.first = numbers[0]
        self._rounds.update(dict.fromkeys(numbers, round))
        try:
            async with asyncio.timeout(timeout):
                await self._send_all(questions, numbers)
                await round.over
        except (TimeoutError, Lost):
            pass
        finally:
            for number in numbers:
                self._rounds.pop(number, None)
        return round.answers

    async def _send_all(self, questions: Sequence[Question], numbers: Sequence[int]) -> None:
        inbox, ready, size = self._inbox, [], 0
        for question, number in zip(questions, numbers, strict=True):
            ready.append(frame(question.subject, b"%b%d" % (inbox, number), question.headers, question.data))
            size += len(ready[-1])
            if size > TOGETHER:
                await self.send(b"".join(ready))
                ready, size = [], 0
        await self.send(b"".join(ready))

    async def ask_many(self, question: Question, timeout: float) -> list[Answer]:
        """All that is answered until the server says that it was the last; Lost where that does not come."""
        round = Many()
        number = next(self._numbers)
        self._rounds[number] = round
        try:
            async with asyncio.timeout(timeout):
                await self._send_all([question], [number])
                await round.over
        except TimeoutError:
            pass
        finally:
            self._rounds.pop(number, None)
        if not round.complete:
            raise Lost(f"the NATS server did not answer within {timeout:g} seconds")
        return round.found

    def _answered(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        number = int(subject[len(self._inbox) :])
        round = self._rounds.get(number)
        if round is not None:
            round.take(number, Answer(headers, data))


class Round:
    """What waits for one answer to each of its questions."""

    def __init__(self, count: int) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: list[Answer | None] = [None] * count
        self.first = 0
        self._left = count

    def take(self, number: int, answer: Answer) -> None:
        """An answer to this question. A second one to the same means nothing."""
        if self.answers[number - self.first] is None:
            self.answers[number - self.first] = answer
            self._left -= 1
            if not self._left:
                self.end()

    def end(self) -> None:
        """All is there, or nothing more will come."""
        if not self.over.done():
            self.over.set_result(None)


class Many(Round):
    """What waits for an answer of many messages."""

    def __init__(self) -> None:
        super().__init__(0)
        self.found: list[Answer] = []
        self.complete = False

    def take(self, number: int, answer: Answer) -> None:
        """One of them, or the end."""
        if answer.status in END:
            self.complete = True
            self.end()
        else:
            self.found.append(answer)
