"""Dead letters: what a handler gave up on, kept with its cause on the topic `dead.<handler>`.

A dead letter is a record like any other, with an id of its own, and the group `operator.<handler>` has not settled it
until somebody replays or drops it. Replaying publishes it to `replay.<handler>`, which that handler alone reads.
"""

from __future__ import annotations

import traceback

import msgspec

from tidings.broker import Broker, Delivery, Record
from tidings.clock import Clock

PREFIX = "dead."
REPLAY = "replay."
OPERATOR = "operator."
CAUSE_LENGTH = 2000

HANDLER, ERROR, CAUSE, TRACE, ATTEMPTS, DIED = (
    "deadhandler",
    "deaderror",
    "deadcause",
    "deadtrace",
    "deadattempts",
    "deadtime",
)
ORIGIN, ORIGIN_TOPIC, HISTORY = "originid", "origintopic", "deadhistory"


def topic_of(handler: str) -> str:
    """Where the dead letters of a handler are."""
    return PREFIX + handler


def replay_topic_of(handler: str) -> str:
    """What a handler reads beside its own topics."""
    return REPLAY + handler


def operator_of(handler: str) -> str:
    """The group in which a dead letter is open until it is replayed or dropped."""
    return OPERATOR + handler


async def declare(broker: Broker, handler: str) -> None:
    """The topics of a handler's dead letters and replays exist, so that nothing of them is lost."""
    await broker.declare(topic_of(handler), [operator_of(handler)])
    await broker.declare(replay_topic_of(handler), [handler])


def bury(
    delivery: Delivery, handler: str, error: BaseException, clock: Clock, *, attempts: int | None = None
) -> Record:
    """The dead letter of a delivery, its payload untouched; `attempts` where it was not handled each time."""
    record = delivery.record
    headers = {
        **record.headers,
        ORIGIN: record.headers.get(ORIGIN, record.id),
        ORIGIN_TOPIC: record.headers.get(ORIGIN_TOPIC, record.topic),
        HANDLER: handler,
        ERROR: type(error).__name__,
        CAUSE: printable(str(error))[:CAUSE_LENGTH],
        TRACE: printable(where(error))[:CAUSE_LENGTH],
        ATTEMPTS: str(delivery.attempt if attempts is None else attempts),
        DIED: repr(clock.now()),
    }
    return Record(topic_of(handler), record.value, record.key, record.type, clock.id(), record.time, headers)


def where(error: BaseException) -> str:
    """Where it was raised, without the values of the payload: file, line and function of the innermost frames."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return "; ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames)


def printable(text: str) -> str:
    """Text that any store and terminal can hold: no lone surrogates, no control characters but newlines."""
    clean = text.encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in clean)


def revived(letter: Record, handler: str, clock: Clock) -> Record:
    """What gives a dead letter back to its handler; its history stays in its headers."""
    topic = replay_topic_of(handler)
    return Record(topic, letter.value, letter.key, letter.type, clock.id(), letter.time, letter.headers)


def edited(letter: Record, value: bytes, clock: Clock) -> Record:
    """The letter with another payload; what it was before is kept in its history."""
    history = msgspec.json.decode(letter.headers.get(HISTORY, "[]"), type=list[dict[str, str]])
    history.append({"at": repr(clock.now()), "before": letter.value.decode("utf-8", "backslashreplace")})
    headers = {**letter.headers, HISTORY: msgspec.json.encode(history).decode()}
    return Record(letter.topic, value, letter.key, letter.type, clock.id(), letter.time, headers)
