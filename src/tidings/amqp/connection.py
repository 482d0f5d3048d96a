"""The connection to RabbitMQ, which comes back, and what is said where it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pika.exceptions

from tidings.amqp.address import HANDSHAKE, Address
from tidings.amqp.channel import NO_RIGHTS, Lost
from tidings.amqp.wire import Wire
from tidings.clock import Clock
from tidings.errors import BrokerError
from tidings.options import Host
from tidings.redial import Redialed

PAUSE = 1.0
"""Seconds between attempts to connect. A link has two connections, so that it makes at most two attempts a second."""
FAREWELL = 2.0
OLDEST = (3, 8)
"""The first version of RabbitMQ with quorum queues."""
NO_VHOST = 530


class Connection(Redialed[Host, Wire]):
    """See Redialed. `heartbeat` in seconds."""

    def __init__(self, address: Address, clock: Clock, *, heartbeat: int) -> None:
        super().__init__("RabbitMQ", address.servers, clock, pause=PAUSE, lost=Lost)
        self._address = address
        self._heartbeat = heartbeat

    async def _dial(self, host: Host) -> Wire:
        place = f"RabbitMQ at {host}"
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
                name = host.name if context else None
                transport, _ = await loop.create_connection(make, *host, ssl=context, server_hostname=name)
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
        self._fell(_told(why))

    async def _hang_up(self, wire: Wire) -> None:
        await hang_up(wire)


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
        return BrokerError(f"{place} refuses {address.who} or the password: amqp://USER:PASSWORD@HOST")
    if isinstance(error, pika.exceptions.ProbableAccessDeniedError) or code == NO_VHOST:
        return BrokerError(
            f"{place} has no virtual host {address.vhost!r}, or {address.who} has no rights on it: "
            "amqp://HOST/VHOST, and rabbitmqctl set_permissions"
        )
    if isinstance(error, ssl.SSLError):
        return BrokerError(f"{place}: TLS does not fit ({error}): amqp:// or amqps://, and see ?ca=, ?cert= and ?key=")
    if isinstance(error, pika.exceptions.IncompatibleProtocolError):
        return BrokerError(f"{place} does not speak AMQP 0-9-1 without TLS: amqps:// for TLS, or another port")
    if isinstance(error, TimeoutError):
        return Lost(f"{place} does not answer within {HANDSHAKE:g} seconds")
    ended = EOFError() if isinstance(error, pika.exceptions.AMQPConnectionError) else error
    if address.tls is not None:
        hint = address.tls.hint(ended)
    else:
        hint = "; where it wants TLS, write amqps://" if isinstance(error, ConnectionResetError) else ""
    return Lost(f"{place} cannot be reached: {_told(error)}{hint}")
