"""The connection to NATS, which comes back, and what is said where it is refused."""

from __future__ import annotations

import asyncio
import ssl

import nats.errors

from tidings.clock import Clock
from tidings.errors import BrokerError
from tidings.jetstream.address import Address
from tidings.jetstream.wire import Lost, Wire
from tidings.redial import Redialed

PAUSE = 0.5
"""Seconds between attempts to connect: at most two a second."""
DEADLINE = 5.0


class Connection(Redialed[str, Wire]):
    """See Redialed."""

    def __init__(self, address: Address, clock: Clock) -> None:
        super().__init__("NATS", address.servers, clock, pause=PAUSE, lost=Lost)
        self._address = address

    async def _dial(self, host: str) -> Wire:
        options = self._address.options()
        wire: Wire

        def lost() -> None:
            self._fell(wire.last_error or wire.trouble or "closed by the server")

        wire = Wire(lost, wants_tls=self._address.tls is not None)
        try:
            async with asyncio.timeout(DEADLINE):
                await wire.dial(host, **options)
        except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
            raise refusal(host, error, self._address) from error
        self._hosts += [url for each in wire.discovered_servers if (url := each.geturl()) not in self._hosts]
        return wire

    async def _hang_up(self, wire: Wire) -> None:
        await wire.hang_up()


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
    if isinstance(error, ssl.SSLError) or "CERTIFICATE" in said or "certificate" in said:
        return BrokerError(f"{place}: its certificate or ours is not accepted ({said}): see ?ca=, ?cert= and ?key=")
    if isinstance(error, TimeoutError):
        return Lost(f"{place} does not answer within {DEADLINE:g} seconds")
    ended = EOFError() if isinstance(error, nats.errors.UnexpectedEOF) else error
    hint = "" if address.tls is None else address.tls.hint(ended)
    return Lost(f"{place} cannot be reached: {said or type(error).__name__}{hint}")
