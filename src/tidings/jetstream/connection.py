"""A connection that comes back: who uses it asks for the wire of the moment, and is told when there is another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

import nats.errors

from tidings.clock import Clock
from tidings.errors import BrokerError, Closed
from tidings.jetstream.address import Address
from tidings.jetstream.wire import Lost, Wire

log = logging.getLogger("tidings")

PAUSE, LONGEST = 0.5, 2.0
"""Seconds between attempts to connect: the first, and the longest. At most two attempts a second."""
DEADLINE = 5.0


class User(Protocol):
    """What uses a connection."""

    def changed(self) -> None:
        """The wire was lost, or there is another one."""
        ...

    async def close(self) -> None:
        """End, and be no user any more."""
        ...


class Connection:
    """One wire at a time, and another one when it is lost."""

    def __init__(self, address: Address, clock: Clock) -> None:
        self.users: set[User] = set()
        self._address = address
        self._clock = clock
        self._servers = list(address.servers)
        self._wire: Wire | None = None
        self._why = "it was not opened"
        self._opened = False
        self._redialer: asyncio.Task[None] | None = None

    def wire(self) -> Wire:
        """The wire of the moment. Raises Lost while there is none."""
        if not self._opened:
            raise Closed("the connection to NATS is not open")
        if self._wire is None:
            raise Lost(f"the NATS server cannot be reached: {self._why}")
        return self._wire

    async def open(self) -> None:
        """Connect to one of the servers. Raises a BrokerError that says what to do."""
        problem: BrokerError | None = None
        for _ in self._address.servers:
            try:
                self._wire = await self._dial()
                self._opened = True
                return
            except BrokerError as error:
                problem = error
        assert problem is not None
        raise problem

    async def close(self) -> None:
        """Close what uses it, and disconnect."""
        for user in list(self.users):
            await user.close()
        self._opened = False
        if self._redialer is not None:
            self._redialer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._redialer
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.hang_up()

    async def _dial(self) -> Wire:
        server = self._servers[0]
        self._servers.append(self._servers.pop(0))
        options = self._address.options()
        wire = Wire(self._lost, wants_tls=self._address.tls is not None)
        try:
            async with asyncio.timeout(DEADLINE):
                await wire.dial(server, **options)
        except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
            raise refusal(server, error, self._address) from error
        self._servers += [url for each in wire.discovered_servers if (url := each.geturl()) not in self._servers]
        return wire

    def _lost(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None and self._opened:
            self._why = f"the connection was lost ({wire.last_error or wire.trouble or 'closed by the server'})"
            self._redialer = asyncio.create_task(self._redial(), name="nats-reconnect")
            self._tell()

    async def _redial(self) -> None:
        pause = PAUSE
        while True:
            await self._clock.sleep(pause * (1.0 + 0.5 * self._clock.random()))
            pause = min(pause * 1.5, LONGEST)
            try:
                self._wire = await self._dial()
            except BrokerError as error:
                self._why = str(error)
                continue
            log.info("connected to NATS again")
            self._tell()
            return

    def _tell(self) -> None:
        for user in list(self.users):
            user.changed()


def refusal(server: str, error: Exception, address: Address) -> BrokerError:
    """What to do about a connection that was refused."""
    place = f"NATS at {server.partition('://')[2]}"
    said = str(error)
    if "authorization" in said.lower() or "authentication" in said.lower():
        how = "user and password" if address.user is not None else "credentials"
        return BrokerError(
            f"{place} refuses these {how}: nats://USER:PASSWORD@HOST, ?token=, ?creds=FILE or ?nkey=FILE"
        )
    if "no TLS" in said:
        return BrokerError(f"{place} offers no TLS, so nothing was sent: write nats:// or switch TLS on there")
    if "CERTIFICATE" in said or "certificate" in said:
        return BrokerError(f"{place}: its certificate or ours is not accepted ({said}): see ?ca=, ?cert= and ?key=")
    if isinstance(error, TimeoutError):
        return Lost(f"{place} does not answer within {DEADLINE:g} seconds")
    return Lost(f"{place} cannot be reached: {said or type(error).__name__}")
