"""A server that a run has started itself, and the way to it: both can be broken."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tidings import dev
from tidings.chaos.plan import (
    BLACK_HOLE,
    CUT,
    FREEZE_BROKER,
    HALF_OPEN,
    HALF_OPEN_UP,
    KILL_BROKER,
    REFUSED,
    RESTART_BROKER,
    SLOW,
    THIN,
    TORN,
)
from tidings.chaos.proxy import LOOPBACK, Proxy
from tidings.chaos.site import Blow
from tidings.chaos.toxics import Bandwidth, BlackHole, Fault, HalfOpen, Latency, LimitData, Reset, Slicer
from tidings.dev.server import free_port
from tidings.errors import ConfigError

SERVERS: Mapping[str, type[dev.Server]] = {
    server.kind: server for server in (dev.Nats, dev.Valkey, dev.RabbitMQ, dev.Kafka, dev.Postgres)
}
AWAY = 1.0
"""Seconds for which a server that was killed is not there, and for which all that is said comes late."""
LATE = 0.2
NARROW, PIECE = 8_192, 100
"""Bytes a second of each connection, and in a piece."""
MOST_TORN = 2_000
"""Bytes after which a connection breaks at the latest: often in the middle of what is said."""


class Ground:
    """A server and a proxy before it. `lasting` in seconds is how long silence lasts."""

    def __init__(self, server: dev.Server, proxy: Proxy, lasting: float) -> None:
        self._server = server
        self._proxy = proxy
        self._lasting = lasting
        self.faults: Mapping[str, Blow] = {
            KILL_BROKER: self._kill,
            RESTART_BROKER: self._restart,
            FREEZE_BROKER: self._freeze,
            CUT: lambda: self.suffer(0.05, Reset()),
            TORN: lambda: self.suffer(AWAY, LimitData(bytes=secrets.randbelow(MOST_TORN))),
            REFUSED: lambda: self.suffer(lasting, Reset()),
            BLACK_HOLE: lambda: self.suffer(lasting, BlackHole()),
            HALF_OPEN: lambda: self.suffer(lasting, HalfOpen(direction="down")),
            HALF_OPEN_UP: lambda: self.suffer(lasting, HalfOpen(direction="up")),
            SLOW: lambda: self.suffer(AWAY, Latency(seconds=LATE, jitter=LATE / 4)),
            THIN: lambda: self.suffer(AWAY, Bandwidth(rate=NARROW), Slicer(size=PIECE)),
        }

    @property
    def direct(self) -> str:
        """Past the proxy: for whoever only looks."""
        return self._server.url

    @property
    def url(self) -> str:
        """Through the proxy."""
        parts = urlsplit(self._server.url)
        host, port = self._proxy.address
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return parts._replace(netloc=f"{user}{host}:{port}").geturl()

    async def _kill(self) -> None:
        await asyncio.to_thread(self._server.kill9)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(self._server.start)

    async def _restart(self) -> None:
        await asyncio.to_thread(self._server.restart)

    async def _freeze(self) -> None:
        self._server.pause()
        try:
            await asyncio.sleep(self._lasting)
        finally:
            self._server.resume()

    @property
    def accepted(self) -> int:
        """How many connections clients have made, also those that came to nothing."""
        return self._proxy.accepted

    @contextlib.contextmanager
    def broken(self, *faults: Fault) -> Generator[None]:
        """These befall all connections while the block lasts."""
        self._proxy.set(*faults)
        try:
            yield
        finally:
            self._proxy.heal()

    async def suffer(self, seconds: float, *faults: Fault) -> None:
        """The same for so long."""
        with self.broken(*faults):
            await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def ground(kind: str, folder: Path, lasting: float) -> AsyncGenerator[Ground]:
    """A server of this kind in the folder while the block lasts. Raises ConfigError where there is none."""
    if kind not in SERVERS:
        raise ConfigError(f"A run can start and break: {', '.join(SERVERS)}; not {kind!r}.")
    server = SERVERS[kind](folder)
    port = free_port()
    target = server.lead(port)
    try:
        await asyncio.to_thread(server.start)
        async with Proxy((LOOPBACK, target), port=port) as proxy:
            yield Ground(server, proxy, lasting)
    finally:
        await asyncio.to_thread(server.close)
