"""Where the contract is checked on a link with a store beside it, or with none, and what is done to its server."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lifetime import kept_open
from tidings import dev
from tidings.broker import Broker, Feature
from tidings.clock import Clock
from tidings.config import Config
from tidings.embedded.database import Database
from tidings.link import Link
from tidings.linked import Linked
from tidings.store import Store
from tidings.storeless import Storeless
from tidings.stores.sqlite import SqliteStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

LIMIT = 1 << 19
LEASE = 2.0
MANY = 2000
SLOW_START = ("a_restart_of_the_server_loses_nothing",)
"""Left to the nightly run where a server takes seconds to start: it is killed and started again as well."""
ABLE = frozenset({"silence", "config", "restart", "kill", "cut", "remove"})


def with_a_store(features: Feature, able: Collection[str] = ("silence",)) -> list[Check]:
    """What holds on a link with these features and a store beside it."""
    return contract.checks(features | Feature.DELAY | Feature.ATOMIC, able)


def each(checks: Sequence[Check], *, slow: Collection[str] = ()) -> pytest.MarkDecorator:
    """A test for each check, with the time that its server takes to start twice; those of these names are slow ones."""
    marked = [pytest.param(each, id=each.name, marks=_marks(each, slow)) for each in checks]
    return pytest.mark.parametrize("check", marked)


def _marks(check: Check, slow: Collection[str]) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.timeout(240)] if check.wants in ("restart", "kill", "cut", "remove", "config") else []
    return [*marks, pytest.mark.slow] if check.name in slow else marks


def config(url: str, store: str | None, *, lease: float = LEASE) -> Config:
    """Where a member in another process connects. Records of checks have times long past: they are kept for ever."""
    return Config(broker=url, store=store, lease=lease, keep=float("inf"), body_limit=LIMIT)


def blows(server: dev.Server) -> dict[str, Any]:
    """What can be done to a server of our own, by the names that they have in the contract."""

    def kill() -> None:
        server.kill9()
        server.start()

    async def cut() -> None:
        cut_connections(server.port)

    return {
        "restart": lambda: asyncio.to_thread(server.restart),
        "kill": lambda: asyncio.to_thread(kill),
        "cut": cut,
        "many": MANY,
    }


def cut_connections(port: int) -> None:
    """End every connection of this process to a port, whichever library holds it."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if str(entry.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as copy:
                    if copy.family == socket.AF_INET and copy.getpeername()[1] == port:
                        copy.shutdown(socket.SHUT_RDWR)


class Beside(NamedTuple):
    """The store beside a link: a new one for each connection, and its URL for members in other processes."""

    store: Callable[[], Store]
    url: str | None = None


NOTHING = Beside(Storeless)


def rows_in(folder: Path) -> Beside:
    """In a file there."""
    rows = Database(folder / "store.db")
    return Beside(lambda: SqliteStore(rows), f"sqlite:{rows.path}")


def offered(server: dev.Server, url: str, beside: Beside) -> dict[str, Any]:
    """What the contract may do to a server of our own, and where a member in another process connects."""
    return {"config": config(url, beside.url), **blows(server)}


class LinkedSite:
    """Connections of a new `link()` and `store()` each. `silence(link)` makes one say nothing more, as a kill does."""

    def __init__(
        self,
        link: Callable[[], Link],
        store: Callable[[], Store],
        silence: Callable[[Any], Awaitable[None]],
        *,
        clock: Clock | None = None,
        lease: float = LEASE,
        delay: float = 2.0,
    ) -> None:
        self.clock = clock or Clock()
        self._link = link
        self._store = store
        self._silence = silence
        self._lease = lease
        self._delay = delay

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[Broker]:
        async with (
            kept_open(self._store()) as store,
            kept_open(Linked(self._link(), store, self.clock, limit=LIMIT)) as broker,
        ):
            yield broker

    @contextlib.asynccontextmanager
    async def store(self, broker: Broker) -> AsyncGenerator[Store]:
        assert isinstance(broker, Linked)
        yield broker.store

    async def silence(self, broker: Broker) -> None:
        assert isinstance(broker, Linked)
        await self._silence(broker.link)

    def server(self, **more: Any) -> Server:
        """`more` is what the contract may do to it."""
        return Server(
            connect=self.connect, clock=self.clock, lease=self._lease, silence=self.silence, store=self.store,
            delay=self._delay, largest=LIMIT, too_large=LIMIT + 1, **more,
        )  # fmt: skip
