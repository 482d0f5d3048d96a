"""A connection that comes back: who uses it asks for the wire of the moment, and is told when there is another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Protocol

import pika.exceptions

from tidings.amqp.address import HANDSHAKE, Address
from tidings.amqp.channel import Lost
from tidings.amqp.wire import Wire
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed

log = logging.getLogger("tidings")

PAUSE, SPREAD, LONGEST = 1.0, 0.5, 4.0
"""Seconds between attempts to connect: at least, the first spread above that, and the longest spread. A link has two
connections, so that it makes at most two attempts a second."""
FAREWELL = 2.0
OLDEST = (3, 8)
"""The first version of RabbitMQ with quorum queues."""
NO_RIGHTS, NO_VHOST = 403, 530


class User(Protocol):
    """What uses a connection."""

    def changed(self) -> None:
        """The wire was lost, or there is another one."""
        ...

    async def close(self) -> None:
        """End, and be no user any more."""
        ...


class Connection:
    """One wire at a time, and another one when it is lost. `heartbeat` in seconds."""

    def __init__(self, address: Address, clock: Clock, *, heartbeat: int) -> None:
        self.users: set[User] = set()
        self.since = 0.0  # when this wire came, by the monotonic clock
        self.times = 0  # how often there was one
        self._address = address
        self._clock = clock
        self._heartbeat = heartbeat
        self._servers = list(address.servers)
        self._wire: Wire | None = None
        self._why = "it was not opened"
        self._opened = False
        self._redialer: asyncio.Task[None] | None = None

    def wire(self) -> Wire:
        """The wire of the moment. Raises Lost while there is none."""
        if not self._opened:
            raise Closed("the connection to RabbitMQ is not open")
        if self._wire is None:
            raise Lost(f"RabbitMQ cannot be reached: {self._why}")
        return self._wire

    @property
    def up(self) -> bool:
        """Whether there is a wire."""
        return self._wire is not None

    async def open(self) -> None:
        """Connect to one of the servers. Raises a BrokerError that says what to do."""
        problem: BrokerError | None = None
        for _ in self._address.servers:
            try:
                self._settle(await self._dial())
                self._opened = True
                return
            except BrokerError as error:
                problem = error
        assert problem is not None
        raise problem

    def _settle(self, wire: Wire) -> None:
        self._wire = wire
        self.since = self._clock.monotonic()
        self.times += 1

    async def close(self) -> None:
        """Close what uses it, and disconnect."""
        for user in list(self.users):
            await user.close()
        self._opened = False
        if self._redialer is not None:
            self._redialer.cancel()
            await asyncio.wait([self._redialer])
        wire, self._wire = self._wire, None
        if wire is not None:
            await hang_up(wire)

    async def _dial(self) -> Wire:
        server = self._servers[0]
        self._servers.append(self._servers.pop(0))
        place = f"RabbitMQ at {server}"
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[BaseException | None] = loop.create_future()
        wire: Wire | None = None

        def done(error: BaseException | None) -> None:
            if not opened.done():
                opened.set_result(error)

        def make() -> Wire:
            nonlocal wire
            wire = Wire(self._address.parameters(self._heartbeat), done, self._lost)
            return wire

        context = None if self._address.tls is None else self._address.tls.context()
        try:
            async with asyncio.timeout(HANDSHAKE):
                host = server.name if context else None
                transport, _ = await loop.create_connection(make, *server, ssl=context, server_hostname=host)
                _watch(transport.get_extra_info("socket"), self._heartbeat)
                error = await opened
        except (OSError, TimeoutError) as problem:
            error = problem
        except BaseException:
            if wire is not None:
                wire.abort()
            raise
        if error is None and wire is not None:
            return await self._fit(wire, place)
        if wire is not None:
            await hang_up(wire)
        raise refusal(place, error or TimeoutError(), self._address)

    async def _fit(self, wire: Wire, place: str) -> Wire:
        version = server_version(wire)
        if version < OLDEST:
            await hang_up(wire)
            told = ".".join(map(str, version))
            raise BrokerError(f"{place} is version {told}: quorum queues need 3.8, and 3.10 or later is advised")
        return wire

    def _lost(self, why: BaseException) -> None:
        if self._wire is None or not self._opened:
            return
        self._wire = None
        self._why = f"the connection was lost ({_told(why)})"
        log.warning("RabbitMQ: %s", self._why)
        self._redialer = asyncio.create_task(self._redial(), name="rabbitmq-reconnect")
        self._tell()

    async def _redial(self) -> None:
        spread = SPREAD
        while True:
            await self._clock.sleep(PAUSE + spread * self._clock.random())
            spread = min(spread * 2, LONGEST)
            try:
                self._settle(await self._dial())
            except BrokerError as error:
                self._why = str(error)
                continue
            log.info("connected to RabbitMQ again")
            self._tell()
            return

    def _tell(self) -> None:
        for user in list(self.users):
            user.changed()


def _watch(peer: socket.socket, heartbeat: int) -> None:
    """What was sent and is not received for two heartbeats means that the connection is lost."""
    with contextlib.suppress(OSError, AttributeError):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, heartbeat * 2000)


async def hang_up(wire: Wire) -> None:
    """Disconnect in order; what does not answer is left."""
    for end in (wire.close, wire.abort) if wire.is_open else (wire.abort,):
        end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await wire.ended.wait()


def server_version(wire: Wire) -> tuple[int, ...]:
    """The version that the server tells, as far as it is numbers."""
    told = str((wire.server_properties or {}).get("version", "0"))
    return tuple(int(part) for part in told.split(".")[:3] if part.isdigit())


def _told(why: BaseException) -> str:
    return str(why) or type(why).__name__


def refusal(place: str, error: BaseException, address: Address) -> BrokerError:
    """What to do about a connection that was refused."""
    code = getattr(error, "reply_code", None)
    if isinstance(error, pika.exceptions.ProbableAuthenticationError) or code == NO_RIGHTS:
        return BrokerError(f"{place} refuses the user {address.user!r} or the password: amqp://USER:PASSWORD@HOST")
    if isinstance(error, pika.exceptions.ProbableAccessDeniedError) or code == NO_VHOST:
        return BrokerError(
            f"{place} has no virtual host {address.vhost!r}, or the user {address.user!r} has no rights on it: "
            "amqp://HOST/VHOST, and rabbitmqctl set_permissions"
        )
    if isinstance(error, ssl.SSLError):
        return BrokerError(f"{place}: TLS does not fit ({error}): amqp:// or amqps://, and see ?ca=, ?cert= and ?key=")
    if isinstance(error, pika.exceptions.IncompatibleProtocolError):
        return BrokerError(f"{place} does not speak AMQP 0-9-1 without TLS: amqps:// for TLS, or another port")
    if isinstance(error, TimeoutError):
        return Lost(f"{place} does not answer within {HANDSHAKE:g} seconds")
    return Lost(f"{place} cannot be reached: {_told(error)}")
