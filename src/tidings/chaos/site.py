"""Where a run takes place: all it has to know of a broker and a database that their ports do not say.

Another broker is one more file with a `Site`, and a line in `address.find`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from tidings.chaos.plan import Place

Blow = Callable[[], Awaitable[None]]
"""A fault of the broker or of the way to it: it has been struck, and has healed, when this returns."""


class Effect(NamedTuple):
    """One effect of an event. An account is what every event (of a kind) has to have one effect in."""

    account: str
    number: int
    key: str = ""
    pid: int = 0
    at: float = 0.0


class Look(NamedTuple):
    """A quick look from outside: deliveries to be settled, effects so far, files in bytes."""

    pending: int
    effects: int
    wal: int | None
    database: int | None


class Site(Protocol):
    """A broker, and the user's database in which effects are counted."""

    url: str
    """What processes connect to, from any folder."""

    @property
    def store(self) -> str | None:
        """The URL of the store beside the broker, where it is not the broker's own."""
        ...

    @property
    def faults(self) -> Mapping[str, Blow]:
        """What can befall the broker here, by the kind of fault."""
        ...

    places: ClassVar[dict[str, Place]]
    """The named places of the adapter, at which a process can die."""

    @property
    def connection(self) -> type:
        """What a handler asks for to write in its transaction."""
        ...

    async def prepare(self) -> None:
        """Make what is not there; nothing else may be in it. Raises ConfigError or a BrokerError."""
        ...

    def record(self, connection: Any, effect: Effect) -> None:
        """Write an effect in the handler's transaction, to a table that refuses no duplicate."""
        ...

    def look(self) -> Look:
        """How far the run is. Called from a thread, again and again; not by the engine's own count where possible."""
        ...

    def effects(self) -> Iterator[Effect]:
        """All effects, in the order of their commits at least within account and key."""
        ...

    def rows(self, table: str) -> Iterator[tuple[str, list[int]]]:
        """The rows of a Table of the service."""
        ...

    def dead(self) -> Iterable[tuple[str, str, int]]:
        """The dead letters: handler, type of the event, its number."""
        ...

    def damage(self) -> str:
        """What is wrong with the database; empty where nothing is."""
        ...

    def close(self) -> None:
        """Nothing of this process holds on to it any more. Idempotent."""
        ...
