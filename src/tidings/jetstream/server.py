"""What a NATS server is asked about streams: to make them, where they end, and single messages of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from tidings.binding import seconds
from tidings.broker import Start
from tidings.errors import BrokerError
from tidings.jetstream import content
from tidings.jetstream.naming import Topic
from tidings.jetstream.reader import Message
from tidings.jetstream.wire import Answer, Lost, Question, Wire

NO_STREAM, NO_MESSAGE, WRONG_REVISION, NO_SPACE = 10059, 10037, 10071, 10047
DEADLINE = 5.0
"""Seconds in which the server answers."""
MANY = 20.0
"""Seconds in which it answers what is long."""


class Problem(msgspec.Struct):
    """Why the server would not."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Ack(msgspec.Struct):
    """What the server says to a message that was published."""

    seq: int = 0
    duplicate: bool = False
    error: Problem | None = None


class Bounds(msgspec.Struct):
    """The sequences of what is in a stream; `deleted` only where that was asked for."""

    first_seq: int = 0
    last_seq: int = 0
    deleted: list[int] = []


class Config(msgspec.Struct):
    """What matters of how a stream is set up."""

    storage: str = ""
    retention: str = ""
    metadata: dict[str, str] = {}
    max_age: int = 0
    allow_atomic: bool = False
    duplicate_window: int = 0


class Stored(msgspec.Struct):
    """A message that was read through the API."""

    seq: int = 0
    data: bytes = b""


class Latest(msgspec.Struct):
    """The latest message of a subject."""

    message: Stored = msgspec.field(default_factory=Stored)
    error: Problem | None = None


class Stream(msgspec.Struct):
    """A stream, or why there is none."""

    config: Config = msgspec.field(default_factory=Config)
    state: Bounds = msgspec.field(default_factory=Bounds)
    created: str = ""
    error: Problem | None = None


Find = Callable[[str], Awaitable[Stream]]
"""What finds the stream of a topic, or makes it."""


class Reply(Protocol):
    """What the API answers."""

    error: Problem | None


Told = TypeVar("Told", bound=Reply)
read_ack = msgspec.json.Decoder(Ack).decode


class Refused(BrokerError):
    """The server would not; `number` is the server's own for why."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def acked(answer: Answer | None) -> int:
    """The sequence under which a message is kept. Raises Refused, and Lost where that is not known."""
    if answer is None:
        raise Lost("the NATS server did not answer in time; whether it was done is not known")
    if answer.status == b"503":
        raise Lost("no stream of the NATS server takes this subject (or JetStream is off, or has no leader)")
    ack = read_ack(answer.data)
    if ack.error is not None:
        raise Refused(f"the NATS server refused it: {ack.error.description}", ack.error.err_code)
    return ack.seq


async def call(wire: Wire, name: str, body: Mapping[str, Any], told: type[Told]) -> Told:
    """Call the API of JetStream. Raises Refused for what it cannot, and Lost."""
    question = Question(f"$JS.API.{name}".encode(), msgspec.json.encode(body))
    (answer,) = await wire.ask([question], DEADLINE)
    if answer is None:
        why = f": {wire.trouble}" if wire.trouble is not None else ""
        raise Lost(f"the NATS server did not answer {name} within {DEADLINE:g} seconds{why}")
    if answer.status == b"503":
        why = "the NATS server does not answer for JetStream: start it with `-js`, or enable it for the account"
        raise Lost(why) if wire.has_jetstream else Refused(why, 503)  # one that begins or ends has it, and is silent
    found = msgspec.json.decode(answer.data, type=told)
    if found.error is not None:
        raise Refused(f"the NATS server refused {name}: {found.error.description}", found.error.err_code)
    return found


async def stream(wire: Wire, name: str, config: Mapping[str, Any]) -> Stream:
    """The stream of this name, made like this where there is none."""
    try:
        return await call(wire, f"STREAM.INFO.{name}", {}, Stream)
    except Refused as refused:
        if refused.number != NO_STREAM:
            raise
    try:
        return await call(wire, f"STREAM.CREATE.{name}", {"name": name, **config}, Stream)
    except Refused as refused:
        if refused.number != 10058:  # another process was first
            raise
    return await call(wire, f"STREAM.INFO.{name}", {}, Stream)


async def gone(wire: Wire, name: str, sequences: Collection[int]) -> set[int]:
    """Those of these that the stream does not keep any more.

    That a message was not found does not say so: a server that is about to end finds none in what it has closed.
    """
    if not sequences:
        return set()
    state = (await call(wire, f"STREAM.INFO.{name}", {"deleted_details": True}, Stream)).state
    return {sequence for sequence in sequences if sequence < state.first_seq} | {*sequences} & {*state.deleted}


def fields(headers: bytes) -> dict[bytes, bytes]:
    """The headers of a message, as they are."""
    lines = headers.split(b"\r\n")[1:-2]
    return dict(line.split(b": ", 1) for line in lines if b": " in line)


def got(answer: Answer) -> Message:
    """A message that was read directly: the server says in headers where it lies."""
    told = fields(answer.headers)
    return Message(int(told[b"Nats-Sequence"]), told[b"Nats-Subject"], answer.headers, answer.data)


def one(stream: str, sequence: int) -> Question:
    """For the message of this sequence."""
    return Question(f"$JS.API.DIRECT.GET.{stream}".encode(), b'{"seq":%d}' % sequence)


class Ahead(NamedTuple):
    """What lies on a subject from some sequence on: how much, and when (since the epoch) the first was told."""

    messages: int
    first: int
    since: float | None


async def ahead(wire: Wire, stream: str, subject: bytes, sequence: int) -> Ahead:
    """What lies ahead on this subject, from this sequence on."""
    body = msgspec.json.encode({"seq": sequence, "next_by_subj": subject.decode(), "batch": 1})
    found = await wire.ask_many(Question(f"$JS.API.DIRECT.GET.{stream}".encode(), body), DEADLINE)
    if not found:
        return Ahead(0, sequence, None)
    told = fields(found[0].headers)
    since = content.time(found[0].headers) or seconds(told[b"Nats-Time-Stamp"].decode())
    return Ahead(1 + int(told[b"Nats-Num-Pending"]), int(told[b"Nats-Sequence"]), since)


async def position(wire: Wire, topic: Topic, bounds: Bounds, start: Start | float) -> int:
    """The sequence behind which to begin.

    At a time: before the first record that was told then or later, found by halving. Where times go back and forth in
    a stream, one of the places where they pass that time.
    """
    if start is Start.LATEST:
        return bounds.last_seq
    if not isinstance(start, float | int):
        return 0
    low, high = bounds.first_seq, bounds.last_seq + 1
    while low < high:
        middle = (low + high) // 2
        found = await ahead(wire, topic.stream, topic.all, middle)
        if found.since is None or found.since >= start:
            high = middle
        else:
            low = found.first + 1
    return max(low - 1, 0)
