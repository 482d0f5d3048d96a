"""Connections that come back. One dialer paces them all: a server that is away is tried twice a second at most."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any

import hiredis

from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, ConfigError
from tidings.redis.address import Address
from tidings.redis.scripts import ALL
from tidings.redis.wire import DEADLINE, Lost, Refused, Wire

log = logging.getLogger("tidings")

PAUSE, LONGEST = 0.5, 2.0
"""Seconds between attempts: the first, and the longest."""
HEARTBEAT = 5.0
OLDEST = (7, 0)
"""The first version with `entries-added`."""
SHORT_LIVED = 2.0


class Dialer:
    """Makes connections, one at a time."""

    def __init__(self, address: Address, clock: Clock) -> None:
        self.address = address
        self._clock = clock
        self._turn = asyncio.Lock()
        self._pause = 0.0
        self._not_before = 0.0

    async def dial(self, lost: Callable[[], None]) -> Wire:
        """A connection that has signed in. Raises a BrokerError that says what to do."""
        async with self._turn:
            await self._clock.sleep(max(0.0, self._not_before - self._clock.monotonic()))
            try:
                wire = await self._dial(lost)
            except (BrokerError, ConfigError):
                self.slower()
                raise
            self._pause = 0.0
            return wire

    def slower(self) -> None:
        """The next attempt comes later than the one before."""
        self._pause = min(max(self._pause * 1.5, PAUSE), LONGEST)
        self._not_before = self._clock.monotonic() + self._pause * (1.0 + 0.5 * self._clock.random())

    async def _dial(self, lost: Callable[[], None]) -> Wire:
        address = self.address
        context = None if address.tls is None else address.tls.context()
        wire = Wire(lost)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE):
                await loop.create_connection(lambda: wire, *address.place, ssl=context)
                await self._greet(wire)
        except BaseException as error:
            wire.hang_up()
            if isinstance(error, OSError | TimeoutError | ssl.SSLError):
                raise unreachable(address, error) from error
            raise
        return wire

    async def _greet(self, wire: Wire) -> None:
        address = self.address
        words = ["HELLO", "2"]
        if address.password is not None:
            words += ["AUTH", address.user or "default", address.password]
        scripts = (("SCRIPT", "LOAD", script.source) for script in ALL)
        try:
            greeting, selected, *_ = await wire.ask_all(
                [*words, "SETNAME", "tidings"], ("SELECT", address.database), *scripts
            )
        except Lost as error:
            how = "asks for a certificate, see ?cert= and ?key=" if address.tls else "wants TLS, write rediss://"
            raise Lost(f"Redis at {address.place} ends the connection ({wire.trouble}); where it {how}") from error
        told = pairs(self._accepted(greeting))
        version = tuple(int(number) for number in re.findall(r"\d+", told.get("version", ""))[:2])
        if version < OLDEST:
            raise BrokerError(
                f"Redis at {address.place} is version {told.get('version')}: 7.0 or later is needed, or Valkey"
            )
        if told.get("role") != "master":
            raise Lost(f"Redis at {address.place} is a replica: name the server that takes writes")
        self._accepted(selected)

    def _accepted(self, answer: Any) -> Any:
        if not isinstance(answer, hiredis.ReplyError):
            return answer
        said = str(answer)
        code = said.partition(" ")[0]
        place = f"Redis at {self.address.place}"
        if code in ("NOAUTH", "WRONGPASS"):
            raise Refused(f"{place} refuses this user and password: redis://USER:PASSWORD@HOST", code)
        if "unknown command" in said.lower():
            raise Refused(f"{place} is too old: Redis 7.0 or later is needed, or Valkey", code)
        raise Refused(f"{place} refuses the connection: {said}", code)


def pairs(flat: Any) -> dict[str, str]:
    """The names and values that an answer has in turn, as text."""
    texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in flat or ()]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def unreachable(address: Address, error: Exception) -> BrokerError:
    """What to do about a server that does not let itself be talked to."""
    place = f"Redis at {address.place}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerError(f"{place}: its certificate is not accepted ({error.verify_message}): see ?ca=")
    if isinstance(error, ssl.SSLError):
        return BrokerError(f"{place} does not speak TLS, or does not accept our certificate ({error}): see ?cert=")
    if isinstance(error, TimeoutError):
        hint = "; does it speak TLS there?" if address.tls is not None else ""
        return Lost(f"{place} does not answer within {DEADLINE:g} seconds{hint}")
    return Lost(f"{place} cannot be reached: {error}{'' if address.tls is None else address.tls.hint(error)}")


class Connection:
    """One wire at a time, and another one when it is lost. `told` is called when either happens."""

    def __init__(self, dialer: Dialer, clock: Clock, told: Callable[[], None]) -> None:
        self._dialer = dialer
        self._clock = clock
        self._told = told
        self._wire: Wire | None = None
        self._why = "it was not opened"
        self._since = 0.0
        self._gone = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def wire(self) -> Wire:
        """The wire of the moment. Raises Lost while there is none."""
        if self._keeper is None:
            raise Closed("the connection to Redis is not open")
        if self._wire is None:
            raise Lost(f"the Redis server cannot be reached: {self._why}")
        return self._wire

    async def open(self) -> None:
        """Connect. Raises a BrokerError that says what to do."""
        await self._dial()
        self._keeper = asyncio.create_task(self._keep(), name="redis-connection")

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.hang_up()

    async def _dial(self) -> None:
        self._gone.clear()
        self._wire = await self._dialer.dial(self._lost)
        self._since = self._clock.monotonic()

    def _lost(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._why = f"the connection was lost ({wire.trouble})"
            self._gone.set()
            self._told()

    async def _keep(self) -> None:
        """A sign of life now and then, and another wire where it is lost."""
        while True:
            if not await self._clock.wait(self._gone, HEARTBEAT):
                with contextlib.suppress(BrokerError):
                    await self.wire().ask("PING")
                continue
            if self._clock.monotonic() - self._since < SHORT_LIVED:
                self._dialer.slower()
            try:
                await self._dial()
            except (BrokerError, ConfigError) as error:  # files for TLS are renewed now and then
                self._why = str(error)
                self._gone.set()
                continue
            log.info("connected to Redis again")
            self._told()
