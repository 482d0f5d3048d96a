"""A connection that comes back: who uses it asks for the wire of the moment, and is told when there is another."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, ConfigError, Unreachable

log = logging.getLogger("tidings")

SPREAD, WIDEST = 0.5, 1.5
"""Seconds by which the pauses between attempts differ: at first, and at most."""

Host = TypeVar("Host")
Wire = TypeVar("Wire")


class User(Protocol):
    """What uses a connection."""

    def changed(self) -> None:
        """The wire was lost, or there is another one."""
        ...

    async def close(self) -> None:
        """End, and be no user any more."""
        ...


class Redialed(ABC, Generic[Host, Wire]):
    """One wire at a time, to one of the hosts of `name`, and another one when it is lost.

    Between two attempts are at least `pause` seconds. While there is no wire, who asks for it is told so by `lost`.
    """

    def __init__(
        self, name: str, hosts: Sequence[Host], clock: Clock, *, pause: float, lost: type[Unreachable]
    ) -> None:
        self.users: set[User] = set()
        self.since = 0.0  # when this wire came, by the monotonic clock
        self.times = 0  # how often there was one
        self._name = name
        self._hosts = list(hosts)
        self._clock = clock
        self._pause = pause
        self._no_wire = lost
        self._wire: Wire | None = None
        self._why = "it was not opened"
        self._opened = False
        self._redialer: asyncio.Task[None] | None = None

    @abstractmethod
    async def _dial(self, host: Host) -> Wire:
        """A new wire to this host. Raises a BrokerError that says what to do."""

    @abstractmethod
    async def _hang_up(self, wire: Wire) -> None:
        """End it in order."""

    @property
    def up(self) -> bool:
        """Whether there is a wire."""
        return self._wire is not None

    def wire(self) -> Wire:
        """The wire of the moment. Raises what was given as `lost` while there is none."""
        if not self._opened:
            raise Closed(f"the connection to {self._name} is not open")
        if self._wire is None:
            raise self._no_wire(f"{self._name} cannot be reached: {self._why}")
        return self._wire

    async def open(self) -> None:
        """Connect to one of the hosts. Raises a BrokerError that says what to do."""
        for left in reversed(range(len(self._hosts))):
            try:
                await self._connect()
            except BrokerError:
                if not left:
                    raise
            else:
                self._opened = True
                return

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
            await self._hang_up(wire)

    async def _connect(self) -> None:
        host = self._hosts.pop(0)
        self._hosts.append(host)
        self._wire = await self._dial(host)
        self.since = self._clock.monotonic()
        self.times += 1

    def _fell(self, why: object) -> None:
        """The wire was lost. Nothing if it was given up, or never was the one of the moment."""
        if self._wire is None or not self._opened:
            return
        self._wire = None
        self._why = f"the connection was lost ({why})"
        log.warning("%s: %s", self._name, self._why)
        self._redialer = asyncio.create_task(self._redial(), name=f"{self._name}-redialer")
        self._tell()

    async def _redial(self) -> None:
        spread = SPREAD
        while True:
            await self._clock.sleep(self._pause + spread * self._clock.random())
            spread = min(spread * 2, WIDEST)
            try:
                await self._connect()
            except (BrokerError, ConfigError) as error:  # files for TLS are renewed now and then
                self._why = str(error)
                continue
            log.info("connected to %s again", self._name)
            self._tell()
            return

    def _tell(self) -> None:
        for user in list(self.users):
            user.changed()
