"""What both queues in a SQLite file do: put one after another. They offer no concurrency within a process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.peers.order import Watch, read

Put = Callable[[dict[str, Any]], Any]


def publish(put: Put, orders: Sequence[dict[str, Any]], seconds: float) -> None:
    """Until the time is over."""
    put(orders[0])
    watch, done = Watch(), 0
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        put(orders[done % len(orders)])
        done += 1
    watch.tell(done)


def main(make: Callable[[str], tuple[Put, Callable[[int], None]]]) -> None:
    """Run what the arguments say: FOLDER WORK ORDERS SECONDS COUNT. `make(folder)` gives what puts, what consumes."""
    folder, work, path, seconds, count = sys.argv[1:]
    put, consume = make(folder)
    orders = read(path)
    if work == "consume":
        for index in range(int(count)):
            put(orders[index % len(orders)])
        consume(int(count))
    else:
        publish(put, orders, float(seconds))
    sys.stdout.flush()
    os._exit(0)
