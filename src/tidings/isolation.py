"""Isolation: what a handler may take where its event is tried alone in a process, and what the two processes say.

A frame is a length in four bytes and a tagged message in msgpack.
"""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from tidings.broker import Record
from tidings.errors import HandlerDefinitionError

LEAST_MEMORY = 1 << 20
HEAD = 4


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """One more try, alone in a process of its own, for an event that would be buried because it killed its workers.

    Also for one that failed with MemoryError. `memory` in bytes: what the handler may allocate beyond what the program
    needs to start (on Linux). `seconds`: how long it may take, the start of the process not counted.
    """

    memory: int = 1 << 30
    seconds: float = 60.0


def checked(isolate: Any) -> Isolation | None:
    """What was written at `isolate=`. Raises HandlerDefinitionError."""
    if isolate is None:
        return None
    if not isinstance(isolate, Isolation):
        raise HandlerDefinitionError(f"isolate={isolate!r} is no Isolation; write isolate=Isolation(memory=256 << 20).")
    memory, seconds = typing.cast("tuple[Any, Any]", (isolate.memory, isolate.seconds))
    if not isinstance(memory, int) or memory < LEAST_MEMORY:
        raise HandlerDefinitionError(
            f"Isolation(memory={memory!r}): memory is in bytes, {LEAST_MEMORY} at least; 256 << 20 is 256 MiB."
        )
    if not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise HandlerDefinitionError(f"Isolation(seconds={seconds!r}): seconds have to be more than 0, and finite.")
    return isolate


class Home(msgspec.Struct, frozen=True):
    """Where another process finds a handler: what it imports, in order (a path for a script), and the app there."""

    modules: tuple[str, ...]
    app: str
    handler: str
    config: dict[str, Any]


class Job(msgspec.Struct, frozen=True, tag=True):
    """What the process is to do."""

    home: Home
    record: Record
    attempt: int
    receipt: int
    memory: int
    seconds: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It has started, and the handler begins."""


class Get(msgspec.Struct, frozen=True, tag=True):
    """The handler reads a row."""

    table: str
    key: str


class Row(msgspec.Struct, frozen=True, tag=True):
    """What it is, in msgpack; None where there is none."""

    value: bytes | None


class Done(msgspec.Struct, frozen=True, tag=True):
    """The handler ended well: what it publishes, and the rows that it wrote (None for a deleted one)."""

    records: list[Record]
    writes: list[tuple[str, str, bytes | None]]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It raised this."""

    error: str
    text: str
    where: str


Said = Job | Row | Ready | Get | Done | Failed


def frame(message: Said) -> bytes:
    """A message as it goes from one process to the other."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(HEAD, "big") + body


def message(body: bytes) -> Said:
    """The message in a frame. Raises msgspec.MsgspecError where it is none."""
    return typing.cast("Said", msgspec.msgpack.decode(body, type=Said))
