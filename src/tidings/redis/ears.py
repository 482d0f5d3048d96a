"""Reads streams ahead on a connection of its own: one question at a time, which waits there for news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis

from tidings.clock import Clock
from tidings.redis.connection import Dialer
from tidings.redis.part import Entry
from tidings.redis.wire import DEADLINE, Lost, Round, Wire

LONGEST = 5.0
"""Seconds for which the server holds a question."""
FEW, MOST, BYTES = 16, 1000, 8 << 20
"""How many entries to read at once: of each stream the first time, of all that have some, and for how many bytes."""

Heard = Callable[[bytes, bytes, list[Entry]], None]
"""What takes what was read: stream, behind which id, entries."""


class Ears:
    """`heard` takes what came, `over` is called when a question has an answer or will get none."""

    def __init__(self, dialer: Dialer, clock: Clock, heard: Heard, over: Callable[[], None]) -> None:
        self._dialer = dialer
        self._clock = clock
        self._heard = heard
        self._over = over
        self._wire: Wire | None = None
        self._asked: Round | None = None
        self._deadline = 0.0
        self._each = FEW
        self._shut = False

    @property
    def listening(self) -> bool:
        """Whether a question is open: then there was nothing more when it was asked. An answer that is late ends it."""
        if self._asked is not None and self._wire is not None and self._clock.monotonic() > self._deadline:
            self._wire.drop("the server did not answer")
        return self._asked is not None

    async def ask(self, places: Mapping[bytes, bytes], wait: float, *, limit: int) -> None:
        """What lies in these streams behind these ids; hold the question for at most so many seconds."""
        if self._wire is None or not self._wire.alive:
            wire = await self._dialer.dial(self._over)
            if self._shut:
                wire.hang_up()
                return
            self._wire = wire
        held = min(wait, LONGEST)
        block = ("BLOCK", max(1, int(held * 1000))) if held > 0 else ()
        each = max(1, min(self._each, limit))
        asked = self._asked = self._wire.post(("XREAD", "COUNT", each, *block, "STREAMS", *places, *places.values()))
        self._deadline = self._clock.monotonic() + held + DEADLINE
        asked.over.add_done_callback(lambda _: self._answered(asked, dict(places)))

    def _answered(self, asked: Round, places: Mapping[bytes, bytes]) -> None:
        if self._asked is asked:
            self._asked = None
            found = asked.answers[0] if asked.complete else None
            if isinstance(found, hiredis.ReplyError):
                self.close()
            elif found:
                self._learn(found, len(places))
                for stream, entries in found:
                    self._heard(stream, places[stream], entries)
        self._over()

    def _learn(self, found: Sequence[Any], asked: int) -> None:
        """How many of that size are not too much, and how many of each stream that has some are enough."""
        sizes = [sum(map(len, entries[n][1])) for _, entries in found for n in (0, -1)]
        fitting = BYTES // (max(sizes) * asked + 1)
        self._each = max(1, min(fitting, self._each * 8, -(-MOST // len(found))))

    async def wait_for_answer(self) -> None:
        """Until the open question is answered. Raises Lost where that takes too long."""
        asked = self._asked
        if asked is None:
            return
        await asyncio.wait([asked.over], timeout=max(0.0, self._deadline - self._clock.monotonic()))
        if not asked.over.done() and self._wire is not None:
            self._wire.drop("the server did not answer")
            raise Lost("the Redis server did not answer in time")

    def shut(self) -> None:
        """Listen no more."""
        self._shut = True
        self.close()

    def close(self) -> None:
        """Forget the open question, and the connection with it."""
        self._asked = None
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.hang_up()
