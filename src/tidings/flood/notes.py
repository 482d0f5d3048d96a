"""Notes of what a worker process has settled, published and handed back: when, and for which event of the flood.

A file for each process, to which every commit appends once. What has been written survives the `kill -9` of the
process, and nobody waits for who reads it. An event is known by its number: the id of the arrival that it comes of
(its own, or its correlation id) ends with it.

A block is a header and then so many numbers of four bytes. Times are those of the monotonic clock, which all processes
of a machine share.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tidings.broker import Record

HEADER = struct.Struct("<BxHId")
NAME, SETTLED, TOLD, BACK = range(4)
"""A name, whose number is used from here on; settled by a group; published on a topic; handed back by a group."""
DERIVED = 1 << 31
"""Added to the number of an arrival for what handlers published in answer to it."""
FOREIGN = (1 << 32) - 1
"""The number of an event that is not of this flood."""
DIGITS = 10


def id_of(run: str, number: int) -> str:
    """The id under which an arrival is published; ids that grow keep the index on them cheap."""
    return f"{run}{number:0{DIGITS}}"


class Block(NamedTuple):
    """What one commit did in one place: `name` is a group or a topic."""

    kind: int
    name: str
    at: float
    numbers: array[int]


class Notebook:
    """The notes of this process."""

    def __init__(self, path: Path, run: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._run = run
        self._names: dict[str, int] = {}

    def note(self, kind: int, name: str, records: Iterable[Record], at: float) -> None:
        """Write down what was done with these, all at once."""
        run, start = self._run, len(self._run)
        numbers = array("I")
        add = numbers.append
        for record in records:
            id = record.id
            if id.startswith(run):
                add(int(id[start:]))
            else:
                id = record.headers.get("correlationid", "")
                add(int(id[start:]) | DERIVED if id.startswith(run) else FOREIGN)
        head = b"" if name in self._names else self._define(name)
        os.write(self._file, head + HEADER.pack(kind, self._names[name], len(numbers), at) + numbers.tobytes())

    def _define(self, name: str) -> bytes:
        self._names[name] = len(self._names)
        text = name.encode()
        return HEADER.pack(NAME, self._names[name], len(text), 0.0) + text

    def close(self) -> None:
        """No more notes."""
        os.close(self._file)


class Reader:
    """Reads what all processes have noted, each time what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._names: dict[tuple[Path, int], str] = {}

    def read(self) -> Iterator[Block]:
        """What has been noted since the last time."""
        for path in sorted(self._folder.glob("*.notes")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            yield from self._blocks(path, data)

    def _blocks(self, path: Path, data: bytes) -> Iterator[Block]:
        at = 0
        while at + HEADER.size <= len(data):
            kind, name, count, time = HEADER.unpack_from(data, at)
            end = at + HEADER.size + (count if kind == NAME else 4 * count)
            if end > len(data):
                break  # it is being written
            body = data[at + HEADER.size : end]
            if kind == NAME:
                self._names[path, name] = body.decode()
            else:
                yield Block(kind, self._names[path, name], time, array("I", body))
            at = end
        self._read[path] = self._read.get(path, 0) + at
