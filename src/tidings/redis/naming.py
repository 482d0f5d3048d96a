"""Keys on the server. All of a topic share the hash tag `{topic}`, so that scripts may touch them together.

tidings:{order}             a hash: `parts`, how many parts the topic has
tidings:{order}:3           the stream of part 3
tidings:{order}:groups      a set: the groups
tidings:{order}:group:g     a hash: where group g stands in each part, and who is in it
tidings:{order}:done:3:g    a set: what is done beyond that position
tidings:{order}:bell:g      a stream of one entry: something has changed in the group
tidings:{order}:ids ...     sets: the ids that were published lately
"""

from __future__ import annotations

from typing import NamedTuple

from tidings.roster import part_of

LARGEST = 512 << 20
"""The largest value where the server does not tell, in bytes."""


class Topic(NamedTuple):
    """A topic as it is on the server."""

    name: str
    root: str
    streams: tuple[bytes, ...]

    def part(self, key: str | None, id: str) -> int:
        """Where a record belongs."""
        return part_of(key, id, len(self.streams))

    @property
    def groups(self) -> str:
        """The names of its groups."""
        return f"{self.root}:groups"

    @property
    def ids(self) -> tuple[str, str, str]:
        """The ids of now, those of before, and what exists until it is time to turn."""
        return f"{self.root}:ids", f"{self.root}:ids:old", f"{self.root}:ids:turn"


def topic(prefix: str, name: str, parts: int) -> Topic:
    """The topic of this name."""
    root = f"{prefix}:{{{name}}}"
    return Topic(name, root, tuple(f"{root}:{part}".encode() for part in range(parts)))


class Place(NamedTuple):
    """A group on a topic."""

    topic: Topic
    group: str

    @property
    def state(self) -> str:
        """Where it stands."""
        return f"{self.topic.root}:group:{self.group}"

    @property
    def bell(self) -> bytes:
        """On which members wait."""
        return f"{self.topic.root}:bell:{self.group}".encode()

    def done(self, part: int) -> str:
        """What is done beyond its position in a part."""
        return f"{self.topic.root}:done:{part}:{self.group}"

    @property
    def all_done(self) -> list[str]:
        """That of each part."""
        return [self.done(part) for part in range(len(self.topic.streams))]
