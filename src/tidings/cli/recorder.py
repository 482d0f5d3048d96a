"""What a worker was about when it died: notes in memory that outlives the process, which its supervisor reads then.

The memory is a file without a name. To write a note is to copy some bytes: no system call, nothing that could wait.
"""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import msgspec

SLOT, SLOTS = 512, 128
"""How many bytes a note may have, and how many notes are kept: the latest ones."""
ID_LENGTH, CAUSE_LENGTH = 100, 120


class Try(msgspec.Struct, frozen=True, array_like=True):
    """One try of an event, known by its handler, id and attempt; `cause` where its worker is ended because of it."""

    handler: str
    id: str
    attempt: int
    cause: str = ""
    over: bool = False


def memory() -> IO[bytes]:
    """A place for the notes of one process; to be passed to it by its descriptor."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process that notes in it
    file.truncate(SLOT * SLOTS)
    return file


class Recorder:
    """The writing end. Safe from any thread: each note has a slot of its own."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, SLOT * SLOTS)
        os.close(descriptor)
        self._numbers = itertools.count(1)

    def note(self, entry: Try) -> None:
        """Remember this, in the place of the oldest."""
        number = next(self._numbers)
        body = msgspec.msgpack.encode((number, entry))
        if len(body) <= SLOT - 2:
            at = (number % SLOTS) * SLOT
            self._map[at : at + len(body) + 2] = len(body).to_bytes(2, "big") + body


def last_words(file: IO[bytes]) -> list[Try]:
    """The tries that were not over when the process ended, in the order in which they began."""
    data = os.pread(file.fileno(), SLOT * SLOTS, 0)
    tries: dict[Any, Try] = {}
    for _, entry in sorted(_notes(data), key=lambda note: note[0]):
        key = (entry.handler, entry.id, entry.attempt)
        if entry.over:
            tries.pop(key, None)
        else:
            tries[key] = entry
    return list(tries.values())


def _notes(data: bytes) -> Iterator[tuple[int, Try]]:
    for at in range(0, len(data), SLOT):
        length = int.from_bytes(data[at : at + 2], "big")
        if length:
            try:
                yield msgspec.msgpack.decode(data[at + 2 : at + 2 + length], type=tuple[int, Try])
            except msgspec.MsgspecError:
                continue  # the process died while it wrote this
