"""A member of a group in a process of its own: `python -m tidings.testing.checks.member`, for `processes.py`.

Its input is a line with a Task; where it ends, so does this process. On its output it says what happens to it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence

import msgspec

from tidings.broker import Delivery, Subscription
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import connect
from tidings.errors import BrokerError
from tidings.testing.checks.server import GROUP, PAUSE, TOPIC, acknowledged

DEAD = 9
ORPHANED = 1


class Task(msgspec.Struct):
    """What to do: where to connect, the id of the record that ends the process, and whether nothing is settled."""

    config: Config
    deadly: str = ""
    keeps: bool = False

    def line(self) -> bytes:
        """As a line of its input."""
        return msgspec.msgpack.encode(self).hex().encode() + b"\n"


def say(*words: object) -> None:
    """Tell whoever has started this."""
    print(*words, flush=True)  # noqa: T201 - that is how


async def main(task: Task) -> None:
    """Take and settle, without end."""
    connection = connect(task.config, Clock())
    await connection.open()
    group = await connection.broker.subscribe([TOPIC], GROUP)
    say("joined")
    while True:
        try:
            await settle(group, await group.fetch(5, 1.0), task)
        except BrokerError as error:
            say("trouble", type(error).__name__)
            await asyncio.sleep(PAUSE)


async def settle(group: Subscription, lent: Sequence[Delivery], task: Task) -> None:
    """One after the other."""
    for each in lent:
        say("lent", each.record.id, each.attempt)
        if each.record.id == task.deadly:
            os._exit(DEAD)
        if not task.keeps and await acknowledged(group, each):
            say("settled", each.record.id)


def watch() -> None:
    """End with whoever has started this."""
    sys.stdin.buffer.read()
    os._exit(ORPHANED)


if __name__ == "__main__":
    told = msgspec.msgpack.decode(bytes.fromhex(sys.stdin.buffer.readline().decode()), type=Task)
    threading.Thread(target=watch, daemon=True).start()
    asyncio.run(main(told))
