"""What a plain client does, whichever server it speaks to: one file a server implements it by hand."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

Pair = tuple[str, bytes]
BATCH = 1000
"""How many records a client publishes or takes at once; tidings is given as many."""
GROUP = "bench"
PATIENCE = 1.0
"""How many seconds a client waits for the first record of a batch."""


def batch_of(count: int) -> int:
    """How many of `count` are published at once; the first ones warm up."""
    return min(BATCH, count // 4)


class Client(Protocol):
    """One connection and one topic, read by one group. It is as fast as straightforward code gets, and does no more."""

    def __init__(self, url: str, topic: str) -> None: ...

    async def open(self) -> None:
        """Connect."""
        ...

    async def declare(self) -> None:
        """Make the topic, and its group at the beginning."""
        ...

    async def publish(self, pairs: Sequence[Pair]) -> None:
        """Keys and bodies; on return the server has confirmed them."""
        ...

    async def take(self) -> Sequence[bytes]:
        """What is next, at most BATCH; nothing when PATIENCE is over."""
        ...

    async def settle(self) -> None:
        """What was taken last is done with."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


def client(kind: str, url: str, topic: str) -> Client:
    """The plain client of a server. Raises ImportError where its library is missing."""
    made: Client = importlib.import_module(f"bench.brokers.{kind}").Plain(url, topic)
    return made
