"""Where a run takes place: all it has to know of a broker and a database that their ports do not say.

Another broker is one more file with a `Site`, and a line in `address.find`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple, Protocol

from tidings.chaos.books import Books
from tidings.chaos.plan import Place

Blow = Callable[[], Awaitable[None]]
"""A fault of the broker or of the way to it: it has been struck, and has healed, when this returns."""


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
    def books(self) -> Books:
        """The user's database."""
        ...

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

    async def prepare(self) -> None:
        """Make what is not there; nothing else may be in it. Raises ConfigError or a BrokerError."""
        ...

    def look(self) -> Look:
        """How far the run is. Called from a thread, again and again; not by the engine's own count where possible."""
        ...

    def dead(self) -> Iterable[tuple[str, str, int]]:
        """The dead letters: handler, type of the event, its number."""
        ...

    def close(self) -> None:
        """Nothing of this process holds on to it any more. Idempotent."""
        ...
