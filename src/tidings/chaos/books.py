"""The user's database of a run: the effects, and the rows of the service's Tables.

Where the broker's log lies beside them, what is in it is read here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

EFFECTS = "chaos_effects"
SEEN = f"SELECT account, number, key, pid, at FROM {EFFECTS} ORDER BY place"  # noqa: S608 - a constant
COUNT = f"SELECT coalesce(max(place), 0) FROM {EFFECTS}"  # noqa: S608 - a constant


class Effect(NamedTuple):
    """One effect of an event. An account is what every event (of a kind) has to have one effect in."""

    account: str
    number: int
    key: str = ""
    pid: int = 0
    at: float = 0.0


class Books(Protocol):
    """One kind of database. It holds the effects of one run only, so that all that is in it can be counted."""

    connection: ClassVar[type]
    """What a handler asks for to write in its transaction."""
    outbox: ClassVar[str]
    """SQL that counts what is in the outbox."""

    def refuse(self) -> None:
        """Raise ConfigError where a run has been there."""
        ...

    def prepare(self) -> None:
        """Make the table of effects, in a database that is open."""
        ...

    def record(self, connection: Any, effect: Effect) -> None:
        """Write an effect in the handler's transaction, to a table that refuses no duplicate."""
        ...

    def sizes(self) -> tuple[int | None, int | None]:
        """Bytes of the WAL and of the database; None for what belongs to others too."""
        ...

    def rows(self, table: str) -> Iterator[tuple[str, list[int]]]:
        """The rows of a Table of the service."""
        ...

    def damage(self) -> str:
        """What is wrong with the database; empty where nothing is."""
        ...

    def read(self, sql: str, *values: Any) -> Iterable[Any]:
        """The rows of a statement that only reads. Raises a StorageError."""
        ...

    def close(self) -> None:
        """Nothing of this process holds on to it any more. Idempotent."""
        ...


def count(books: Books) -> int:
    """How many effects there are; numbers that were given and not used may be counted too."""
    ((found,),) = books.read(COUNT)
    return int(found)


def effects(books: Books) -> Iterator[Effect]:
    """All effects, in the order of their commits at least within account and key."""
    return (Effect(*row) for row in books.read(SEEN))


def letters(books: Books, dead: str) -> Iterator[tuple[str, str, int]]:
    """The dead letters that this SQL finds as headers, type and body: handler, type of the event, its number."""
    for headers, type, body in books.read(dead):
        yield msgspec.json.decode(headers)["deadhandler"], type, msgspec.json.decode(body)["number"]
