"""What a member of a group does beside lending, where the server keeps only what it is told: it looks after its parts.

Signs of life, who else is there, what to claim and what to let go: the adapter's `tend` knows how, this knows when.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, Fenced

log = logging.getLogger("tidings")


class Steward:
    """Tends every so many seconds, `again` seconds after trouble, and at once when something stirs.

    Between two times are at least `breath` seconds. Trouble is a BrokerError; whatever else `tend` raises ends it.
    """

    def __init__(
        self, name: str, clock: Clock, *, tend: Callable[[], Awaitable[None]], every: float, again: float = 0.5,
        breath: float = 0.0,
    ) -> None:  # fmt: skip
        self.trouble: BrokerError | None = None
        self._name = name
        self._clock = clock
        self._tend = tend
        self._every = every
        self._again = again
        self._breath = breath
        self._stirred = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on."""
        self._tending = asyncio.create_task(self._keep_tending(), name=self._name)

    def stir(self) -> None:
        """Something may have to be done."""
        self._stirred.set()

    def check_open(self) -> None:
        """Raise Closed where the member has left."""
        if self._leaving is not None:
            raise Closed("this member has left its group")

    def check(self) -> None:
        """Raise Closed where the member has left, or what has ended the tending."""
        self.check_open()
        if self._tending is not None and self._tending.done():
            self._tending.result()

    def stop(self) -> None:
        """Tend no more."""
        if self._tending is not None:
            self._tending.cancel()

    async def leave(self, leave: Callable[[], Awaitable[None]]) -> None:
        """Tend no more, then leave, once; it goes on where whoever waits for it is cancelled."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(leave), name=f"{self._name} leaves")
        await asyncio.shield(self._leaving)

    async def _leave(self, leave: Callable[[], Awaitable[None]]) -> None:
        self.stop()
        if self._tending is not None:
            await asyncio.wait([self._tending])
        await leave()

    async def _keep_tending(self) -> None:
        while True:
            await self._clock.wait(self._stirred, self._every if self.trouble is None else self._again)
            self._stirred.clear()
            try:
                await self._tend()
                self.trouble = None
            except Fenced:
                self.stir()
            except BrokerError as error:
                if self.trouble is None:
                    log.warning("%s: %s", self._name, error)
                self.trouble = error
            if self._breath:
                await self._clock.sleep(self._breath)
