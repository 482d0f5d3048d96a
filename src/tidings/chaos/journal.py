"""What a publisher has attempted and what was acknowledged to it, in a file that survives its death."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

ATTEMPTED, ACKED, AGAIN, TORN = "attempted", "acked", "again", "torn"


class Entries(msgspec.Struct):
    """What a journal says. `again` were published a second time; `torn` lines were cut off, and read up to there."""

    attempted: set[int] = msgspec.field(default_factory=set)
    acked: set[int] = msgspec.field(default_factory=set)
    again: set[int] = msgspec.field(default_factory=set)
    torn: int = 0


class Journal:
    """Lines of a word and numbers, each durable before what it announces, or before anybody relies on it."""

    def __init__(self, path: Path) -> None:
        text = path.read_bytes() if path.exists() else b""
        self.entries = parse(text)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        whole = text.rpartition(b"\n")
        if whole[2]:  # a line that was being written when the last publisher died: the next must not continue it
            os.ftruncate(self._file, len(text) - len(whole[2]))
            self.write(TORN, ())

    def write(self, word: str, numbers: Sequence[int]) -> None:
        """Remember that these were attempted, or acknowledged, or published again."""
        os.write(self._file, f"{' '.join([word, *map(str, numbers)])}\n".encode())
        os.fsync(self._file)


def read(path: Path) -> Entries:
    """What the journal says; nothing where there is none."""
    return parse(path.read_bytes()) if path.exists() else Entries()


def parse(text: bytes) -> Entries:
    """Read up to the first line that is not whole."""
    entries = Entries()
    found = {ATTEMPTED: entries.attempted, ACKED: entries.acked, AGAIN: entries.again}
    for line in text.splitlines(keepends=True):
        try:
            word, *numbers = line.decode("ascii").split()
            if not line.endswith(b"\n"):
                raise ValueError
            if word != TORN:
                found[word].update(map(int, numbers))
            entries.torn += word == TORN
        except (ValueError, KeyError):
            entries.torn += 1
            break
    entries.acked |= entries.again  # a second acknowledgement is one
    return entries


class Follower:
    """Counts what publishers attempt, while they do: an attempt that is made again counts twice."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.attempted = 0
        self._read = dict.fromkeys(paths, 0)

    def look(self) -> None:
        """Count the lines that are new."""
        for path, offset in self._read.items():
            if path.exists():
                with path.open("rb") as file:
                    file.seek(offset)
                    whole = file.read().rpartition(b"\n")[0]
                self._read[path] += len(whole) + bool(whole)
                lines = (line.split() for line in whole.splitlines())
                self.attempted += sum(len(words) - 1 for words in lines if words[0] == ATTEMPTED.encode())
