"""What lanes and their worker know of each other: what came of an event, and what a lane needs for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from tidings.broker import Delivery, Record
from tidings.cell import Cell
from tidings.clock import Clock
from tidings.codec import Codec, Reader
from tidings.handler import Bound
from tidings.inquest import Inquest
from tidings.meter import Meter
from tidings.store import Store, Tx
from tidings.turns import Turns


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """An event that has been handled, not yet settled: what it wrote and what it publishes."""

    delivery: Delivery
    tx: Tx | None = None
    records: Sequence[Record] = ()


class Desk(Protocol):
    """What a lane needs of its worker."""

    bound: Bound
    store: Store
    codec: Codec
    clock: Clock
    meter: Meter
    reader: Reader
    call: Callable[[Any, Delivery, Any], Any]
    plain: Callable[[Any], Any] | None
    turns: Turns
    idle: list[Any]
    done: list[Delivery]
    outcomes: list[Outcome]
    have: asyncio.Event
    threads: ThreadPoolExecutor | None
    watcher: Callable[[Delivery, BaseException], None] | None
    inquest: Inquest | None
    cell: Cell | None

    def call_lane(self) -> None:
        """Wake a lane that rests, if any."""
        ...

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """These have been handled."""
        ...

    def dropped(self, count: int) -> None:
        """These are no longer the worker's."""
        ...

    async def hand_back(self, deliveries: Sequence[Delivery], delay: float) -> None:
        """Have them lent again after a delay."""
        ...

    async def settle(self, run: Callable[[Any], None], done: list[Outcome]) -> None:
        """Run a chunk in the transaction that settles it."""
        ...
