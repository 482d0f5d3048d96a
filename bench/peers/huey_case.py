"""huey: tasks in a SQLite file with fsync, one worker thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from huey import SqliteHuey  # type: ignore[import-not-found]

from bench.peers.order import Watch, typed
from bench.peers.queue_work import Put, main


def make(folder: str) -> tuple[Put, Callable[[int], None]]:
    """A task that is given the order."""
    queue = SqliteHuey(filename=f"{folder}/huey.db", fsync=True, results=False)
    seen: list[None] = []
    more = threading.Condition()

    def handle(order: dict[str, Any]) -> None:
        typed(order)
        with more:
            seen.append(None)
            more.notify()

    def consume(count: int) -> None:
        watch = Watch()
        queue.create_consumer(workers=1, periodic=False).start()
        with more:
            more.wait_for(lambda: len(seen) == count)
        watch.tell(count)

    return queue.task()(handle), consume


if __name__ == "__main__":
    main(make)
