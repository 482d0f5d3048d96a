"""How a line waits for what it lends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tidings.clock import Clock

T = TypeVar("T")


async def first_found(
    find: Callable[[], Awaitable[Sequence[T]]], news: asyncio.Event, *, clock: Clock, seconds: float
) -> Sequence[T]:
    """What `find` finds, asked again whenever there is news; nothing when the seconds are over."""
    deadline = clock.monotonic() + seconds
    while True:
        news.clear()
        if found := await find():
            return found
        left = deadline - clock.monotonic()
        if left <= 0:
            return []
        await clock.wait(news, left)
