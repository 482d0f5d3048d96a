"""What a program did to its files, in order, with marks of its own between: the disk's memory of a run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

from tests.storage.vfs import OK


class Created(NamedTuple):
    """A file was made."""

    file: str


class Write(NamedTuple):
    """Bytes were written."""

    file: str
    offset: int
    data: bytes


class Cut(NamedTuple):
    """A file was truncated."""

    file: str
    size: int


class Sync(NamedTuple):
    """What was written to a file before is durable after this."""

    file: str


class Deleted(NamedTuple):
    """A file was removed; `synced` where that is durable at once."""

    file: str
    synced: bool


class Mark(NamedTuple):
    """The program said something: what it was promised at this point, for example."""

    name: str
    value: Any = None


Entry = Created | Write | Cut | Sync | Deleted | Mark


class Tape:
    """A disk that does everything and remembers it. `deaf` pretends that the disk lies: no sync is one."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.entries: list[Entry] = []
        self._deaf = deaf

    def mark(self, name: str, value: Any = None) -> None:
        """Remember a word of the program."""
        self.entries.append(Mark(name, value))

    def created(self, file: str) -> None:
        """See Disk.created."""
        self.entries.append(Created(file))

    def write(self, file: str, offset: int, data: bytes) -> int:
        """See Disk.write."""
        self.entries.append(Write(file, offset, data))
        return OK

    def truncate(self, file: str, size: int) -> int:
        """See Disk.truncate."""
        self.entries.append(Cut(file, size))
        return OK

    def sync(self, file: str) -> int:
        """See Disk.sync."""
        self.entries.append(Mark("lied about", file) if self._deaf else Sync(file))
        return OK

    def delete(self, file: str, *, synced: bool) -> int:
        """See Disk.delete."""
        self.entries.append(Deleted(file, synced))
        return OK

    def keep(self, path: Path) -> None:
        """Write it to a file."""
        path.write_bytes(pickle.dumps([(type(entry).__name__, tuple(entry)) for entry in self.entries]))


def kept(path: Path) -> list[Entry]:
    """The entries of a tape that was kept."""
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (Created, Write, Cut, Sync, Deleted, Mark)}
    return [kinds[name](*values) for name, values in pickle.loads(path.read_bytes())]
