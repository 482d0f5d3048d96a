"""backlog: what a million waiting events do to the memory of the one worker that drains them, and to its speed.

`python -m bench.brokers.backlog KIND ours|raw URL TOPIC COUNT` fills it, in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

from bench.brokers import by_hand, ours
from bench.brokers.client import batch_of, client
from bench.brokers.count import Counted
from bench.reading import Reading
from bench.rounds import ROOT
from bench.sample import orders

IDLE = 1.0
LOOK = 0.05
MB = 1e6
PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """The most memory that the process has held since this was made, looked at by a thread."""

    def __init__(self) -> None:
        self.most = _held()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            self.most = max(self.most, _held())

    def close(self) -> float:
        """Look no more; returns the most in MB."""
        self._over.set()
        self._thread.join()
        return max(self.most, _held())


def _held() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / MB


def _reading(idle: float, most: float, counted: Counted) -> Reading:
    """MB above the idle worker; never quite nothing, since others are divided by it."""
    return Reading(max(most - idle, 0.1), more={"slowing": counted.slowing()})


async def by_us(kind: str, url: str, topic: str, count: int) -> Reading:
    """A worker that waits, and then one that finds them all."""
    placed = ours.placed_on(topic)
    await ours.declare(url, placed)
    async with ours.working(ours.app_on(url, placed, ours.nothing)):
        await asyncio.sleep(IDLE)
        idle = _held()
    await asyncio.to_thread(_filled, kind, "ours", url, topic, count)
    counted, memory = Counted(count), Memory()
    async with ours.working(ours.app_on(url, placed, ours.nothing)) as worker:
        await ours.until(worker, counted)
    return _reading(idle, memory.close(), counted)


async def by_raw(kind: str, url: str, topic: str, count: int) -> Reading:
    """The plain client, before it has anything to take and then until it has taken them all."""
    plain = client(kind, url, topic)
    await plain.open()
    await plain.declare()
    await plain.take()
    idle = _held()
    await asyncio.to_thread(_filled, kind, "raw", url, topic, count)
    counted, memory = Counted(count), Memory()
    await by_hand.consume(plain, ours.nothing, counted)
    await plain.close()
    return _reading(idle, memory.close(), counted)


def _filled(kind: str, side: str, url: str, topic: str, count: int) -> None:
    command = [sys.executable, "-m", "bench.brokers.backlog", kind, side, url, topic, str(count)]
    subprocess.run(command, cwd=ROOT, check=True)


async def _fill(kind: str, side: str, url: str, topic: str, count: int) -> None:
    if side == "ours":
        await ours.publish(url, ours.events(ours.placed_on(topic), batch_of(count)), count)
        return
    plain = client(kind, url, topic)
    await plain.open()
    await by_hand.publish(plain, orders(batch_of(count)), count)
    await plain.close()


def main() -> None:
    """Fill what the arguments say."""
    kind, side, url, topic, count = sys.argv[1:]
    asyncio.run(_fill(kind, side, url, topic, int(count)))


if __name__ == "__main__":
    main()
