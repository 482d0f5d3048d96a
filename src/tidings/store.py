"""The store port: what keeps state. An adapter is one file in `stores/`.

Three things meet in one commit: rows of Tables, the user's own SQL, and what the broker publishes and acknowledges.
`Tx` and `Sql` are what handlers see, `Unit` what the worker commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, Self, TypeVar, overload, runtime_checkable

import msgspec

from tidings.errors import InvalidEvent

V = TypeVar("V")
D = TypeVar("D")


class Table(msgspec.Struct, Generic[V], frozen=True):
    """Typed rows under text keys. `name` is unique in the store; `type` is anything msgspec can encode."""

    name: str
    type: type[V]

    def encode(self, key: str, value: V) -> bytes:
        """The row as it is kept. Raises InvalidEvent where the value does not fit the table's type."""
        try:
            encoded = msgspec.msgpack.encode(value)
            msgspec.msgpack.decode(encoded, type=self.type)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise InvalidEvent(f"the row {key!r} does not fit table {self.name!r}: {error}") from error
        return encoded


@runtime_checkable
class Tx(Protocol):
    """The unit of work of one event, as an `async def` handler sees it.

    Reads see what was committed and the handler's own writes. Writes are kept when the event is settled, together
    with what the handler publishes, or not at all. Where a row that was read has been changed by another meanwhile,
    nothing is kept and the handler runs again.
    """

    @overload
    async def get(self, table: Table[V], key: str) -> V | None: ...
    @overload
    async def get(self, table: Table[V], key: str, default: D) -> V | D: ...
    async def get(self, table: Table[Any], key: str, default: Any = None) -> Any:
        """The row under `key`, or `default`."""
        ...

    def put(self, table: Table[V], key: str, value: V) -> None:
        """Write a row."""
        ...

    def delete(self, table: Table[Any], key: str) -> None:
        """Remove a row; nothing where there is none."""
        ...


class Sql(Protocol):
    """The transaction of a `def` handler, for SQL that runs on every store: `?` stands for a value.

    What it writes is kept together with the acknowledgement, or not at all. Which words a database knows is its own
    affair: what is to move from SQLite to PostgreSQL keeps to what both understand.
    """

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run a statement; the rows that it returns, empty where it returns none."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values."""
        ...


@runtime_checkable
class Scope(Protocol):
    """Handlers one after another in one step of a unit, so that a failure undoes only what its own handler wrote."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, /, *_: object) -> None: ...

    def begin(self) -> None:
        """A handler is about to run."""
        ...

    def end(self) -> None:
        """It ended well."""
        ...

    def undo(self, error: Exception) -> Exception:
        """It failed: undo what it wrote. Returns what went wrong; raises Redo where only a careful scope could."""
        ...


@runtime_checkable
class Unit(Protocol):
    """What one commit will hold. Steps run in the order they were added, in one transaction, off the event loop."""

    def add(self, step: Callable[[Any], None]) -> None:
        """Run `step(connection)` in the transaction. An error in it undoes the whole unit."""
        ...

    def after(self, done: Callable[[], None]) -> None:
        """Call `done()` on the event loop once it has committed."""
        ...

    def join(self, txs: Sequence[Tx]) -> None:
        """Check what these have read and write what they wrote."""
        ...

    async def commit(self) -> None:
        """All of it, durably, or nothing. Raises Conflict (see `conflicts`), what a step raised, or a StorageError."""
        ...

    conflicts: Sequence[Tx]
    """After a Conflict: the transactions whose reads no longer hold."""


@runtime_checkable
class Store(Protocol):
    """A connection to a store. Safe for the tasks of one event loop."""

    keeps: bool
    """Whether it keeps anything: False where there is no store beside the broker."""

    def resource(self, kind: type) -> Callable[[Any], AbstractContextManager[Any]] | None:
        """Makes what a `def` handler asks for by type from the transaction's connection; None where it cannot."""
        ...

    async def open(self) -> None:
        """Connect. Raises a StorageError that says what to do."""
        ...

    async def close(self) -> None:
        """Wait for what is being committed, disconnect. Idempotent."""
        ...

    def scope(self, connection: Any, *, careful: bool) -> Scope:
        """A scope in a step. A careful one has a savepoint for each handler, which costs something."""
        ...

    def begin(self) -> Tx:
        """A transaction that buffers its writes and holds no lock."""
        ...

    def finish(self, tx: Tx) -> bool:
        """The handler has ended well: later transactions of this process see its writes.

        False where what it read has been overwritten meanwhile: then it has to run again.
        """
        ...

    def discard(self, tx: Tx) -> None:
        """Forget a transaction that will not be committed."""
        ...

    def unit(self) -> Unit:
        """An empty unit."""
        ...

    # -- for the engine's own tables (inbox, outbox), in one SQL for all: `?` stands for a value

    async def rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """What one short SELECT reads of what was committed. Raises a StorageError."""
        ...

    def many(self, connection: Any, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """In a step: run a statement for each row of values; how many rows of tables it has changed."""
        ...

    def find(self, connection: Any, sql: str, values: Sequence[Any]) -> list[Any]:
        """In a step: what a SELECT reads."""
        ...

    def script(self, connection: Any, sql: str) -> None:
        """In a step: run statements divided by `;`, in which `{serial}` is a key that counts and `{bytes}` its type."""
        ...
