"""What a worker knows of the tries that ended a process, its own and others: see `tidings.inquest`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import msgspec

from tidings.broker import Delivery
from tidings.cli.recorder import CAUSE_LENGTH, Recorder, Try

KEPT = 1000
PATIENCE = 1.0
"""Seconds to wait for word of the last try: a process may be found dead before its supervisor has said how it died."""
SECOND = 2
"""The attempt from which on tries are noted."""


class Witness:
    """Notes this process's tries where its supervisor finds them, and hears from it how others ended."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._known: dict[tuple[str, str], dict[int, str]] = {}

    def begins(self, handler: str, delivery: Delivery) -> None:
        """See Inquest.begins."""
        self._recorder.note(Try(handler, delivery.record.id, delivery.attempt))

    def ends(self, handler: str, delivery: Delivery) -> None:
        """See Inquest.ends."""
        if delivery.attempt >= SECOND:
            self._recorder.note(Try(handler, delivery.record.id, delivery.attempt, over=True))

    def convict(self, handler: str, delivery: Delivery, cause: str) -> None:
        """See Inquest.convict."""
        self._recorder.note(Try(handler, delivery.record.id, delivery.attempt, cause[:CAUSE_LENGTH]))

    def heard(self, line: bytes) -> None:
        """A line of the supervisor: tries, each with how it ended."""
        with contextlib.suppress(msgspec.MsgspecError):
            for told in msgspec.json.decode(line, type=list[Try]):
                self._known.setdefault((told.handler, told.id), {})[told.attempt] = told.cause
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    async def causes(self, handler: str, delivery: Delivery) -> Mapping[int, str]:
        """See Inquest.causes."""
        last = delivery.attempt - 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE if last >= SECOND else 0.0):
                while last not in self._known.get((handler, delivery.record.id), {}):  # noqa: ASYNC110 - a thread hears
                    await asyncio.sleep(0.02)
        return self._known.get((handler, delivery.record.id), {})
