"""Names on the server: streams, subjects and keys of what tidings calls topic, group and part.

A name becomes one token: letters, digits, `-` and `_` stay, a dot becomes `=`, and any other byte of its UTF-8 becomes
`~` and two hexadecimal digits. `dead.shop.reserve` is `dead=shop=reserve`.
"""

from __future__ import annotations

import string
from typing import NamedTuple
from urllib.parse import unquote

from tidings.roster import part_of

HEADROOM = 8192
"""Bytes of a message that are kept for its headers."""
METADATA = "tidings-parts"
"""In the metadata of a topic's stream: how many parts it has."""
PLAIN = frozenset((string.ascii_letters + string.digits + "-_").encode())


def token(name: str) -> str:
    """A name as one token of a subject, which no other name has."""
    return "".join(chr(b) if b in PLAIN else "=" if b == 46 else f"~{b:02X}" for b in name.encode())


def name(token: str) -> str:
    """The name that became this token."""
    return unquote(token.replace("=", ".").replace("~", "%"))


class Topic(NamedTuple):
    """A topic as it is on the server. The name of its stream, and the subject of each part."""

    name: str
    stream: str
    subjects: tuple[bytes, ...]

    @property
    def all(self) -> bytes:
        """The subject of every part."""
        return self.subjects[0][:-1] + b"*"

    def subject(self, key: str | None, id: str) -> bytes:
        """Where a record belongs."""
        return self.subjects[part_of(key, id, len(self.subjects))]


def topic(prefix: str, name: str, parts: int) -> Topic:
    """The topic of this name."""
    each = token(name)
    return Topic(name, f"{prefix}_{each}", tuple(f"{prefix}.{each}.{part}".encode() for part in range(parts)))


class Place(NamedTuple):
    """Where the state of a group on a topic lies: its subjects in the bucket of this prefix."""

    root: str

    def part(self, part: int) -> bytes:
        """Of the cursor of a part."""
        return f"{self.root}.{part}".encode()

    def member(self, member: str) -> bytes:
        """Of a sign of life."""
        return f"{self.root}.member.{member}".encode()

    @property
    def bucket(self) -> str:
        """The stream in which it is."""
        return "KV_" + self.root.split(".")[1]

    @property
    def wake(self) -> bytes:
        """On which members tell each other to look. Nothing keeps it."""
        return self.root.removeprefix("$KV.").replace(".", "-wake.", 1).encode()

    @property
    def all(self) -> str:
        """Of everything there."""
        return self.root + ".>"


def place(prefix: str, topic: str, group: str) -> Place:
    """Where the state of `group` on `topic` lies."""
    return Place(f"$KV.{prefix}.{token(topic)}.{token(group)}")
