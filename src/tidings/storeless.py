"""Where there is no store: handlers get no state, and what they publish goes out before their event is acknowledged.

Nothing is kept between the two: after a crash in between, the event comes again and what it led to is published again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from tidings.errors import NoStore
from tidings.store import Scope, Tx, Unit


class Parcel:
    """What a unit without a store does when it commits, step by step: the connection that its steps get."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], Any]] = []


class StorelessUnit:
    """See Unit: the steps run on the event loop, in their order; when one fails, what was done stays done."""

    conflicts: Sequence[Tx] = ()

    def __init__(self) -> None:
        self._steps: list[Callable[[Any], Any]] = []
        self._after: list[Callable[[], None]] = []

    def add(self, step: Callable[[Any], None]) -> None:
        """See Unit.add."""
        self._steps.append(step)

    def after(self, done: Callable[[], None]) -> None:
        """See Unit.after."""
        self._after.append(done)

    def join(self, txs: Sequence[Tx]) -> None:
        """See Unit.join."""
        if txs:
            _refuse()

    async def commit(self) -> None:
        """See Unit.commit."""
        parcel = Parcel()
        for step in self._steps:
            step(parcel)
        for each in parcel.steps:
            await each()
        for done in self._after:
            done()


class Storeless:
    """See Store."""

    keeps = False

    def resource(self, kind: type) -> Callable[[Any], AbstractContextManager[Any]] | None:
        """See Store.resource: nothing."""
        return None

    async def open(self) -> None:
        """See Store.open."""

    async def close(self) -> None:
        """See Store.close."""

    def scope(self, connection: Any, *, careful: bool) -> Scope:
        """Raises NoStore."""
        _refuse()

    def begin(self) -> Tx:
        """Raises NoStore."""
        _refuse()

    def finish(self, tx: Tx) -> bool:
        """Raises NoStore."""
        _refuse()

    def discard(self, tx: Tx) -> None:
        """Raises NoStore."""
        _refuse()

    def unit(self) -> Unit:
        """See Store.unit."""
        return StorelessUnit()

    async def rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Raises NoStore."""
        _refuse()

    def many(self, connection: Any, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Raises NoStore."""
        _refuse()

    def find(self, connection: Any, sql: str, values: Sequence[Any]) -> list[Any]:
        """Raises NoStore."""
        _refuse()

    def script(self, connection: Any, sql: str) -> None:
        """Raises NoStore."""
        _refuse()


def _refuse() -> NoReturn:
    raise NoStore("There is no store beside this broker; name one: --store sqlite:shop.db or --store postgresql://...")
