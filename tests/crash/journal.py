"""What a publisher has attempted and what was acknowledged to it, in a file that survives its death."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

ATTEMPTED, ACKED = "attempted", "acked"


class Journal:
    """Lines of a word and numbers, each durable before what it announces, or before anybody relies on it."""

    def __init__(self, path: Path) -> None:
        self.attempted, self.acked = read(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, word: str, numbers: Sequence[int]) -> None:
        """Remember that these were attempted, or acknowledged."""
        os.write(self._file, f"{word} {' '.join(map(str, numbers))}\n".encode())
        os.fsync(self._file)


def read(path: Path) -> tuple[set[int], set[int]]:
    """What was attempted and what was acknowledged. A line without an end was being written when its publisher died."""
    found: dict[str, set[int]] = {ATTEMPTED: set(), ACKED: set()}
    for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
        if line.endswith("\n"):
            word, *numbers = line.split()
            found[word].update(map(int, numbers))
    return found[ATTEMPTED], found[ACKED]
