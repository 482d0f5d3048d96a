"""A server that a run has started itself, and the way to it: both can be broken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tidings import dev
from tidings.chaos.plan import BLACK_HOLE, CUT, FREEZE_BROKER, HALF_OPEN, KILL_BROKER, RESTART_BROKER, SLOW
from tidings.chaos.proxy import LOOPBACK, Proxy
from tidings.chaos.site import Blow
from tidings.chaos.toxics import BlackHole, Fault, HalfOpen, Latency, Reset
from tidings.dev.server import free_port
from tidings.errors import ConfigError

SERVERS: Mapping[str, type[dev.Server]] = {
    server.kind: server for server in (dev.Nats, dev.Valkey, dev.RabbitMQ, dev.Kafka, dev.Postgres)
}
AWAY = 1.0
"""Seconds for which a server that was killed is not there, and for which all that is said comes late."""
LATE = 0.2


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
            CUT: lambda: self._for(0.05, Reset()),
            BLACK_HOLE: lambda: self._for(lasting, BlackHole()),
            HALF_OPEN: lambda: self._for(lasting, HalfOpen(direction="down")),
            SLOW: lambda: self._for(AWAY, Latency(seconds=LATE, jitter=LATE / 4)),
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

    async def _for(self, seconds: float, *faults: Fault) -> None:
        self._proxy.set(*faults)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._proxy.heal()


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
