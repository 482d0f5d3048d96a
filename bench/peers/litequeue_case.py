"""litequeue: messages in a SQLite file with synchronous=FULL, taken, handled and marked as done one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from litequeue import LiteQueue  # type: ignore[import-not-found]

from bench.peers.order import Watch, typed
from bench.peers.queue_work import Put, main


def make(folder: str) -> tuple[Put, Callable[[int], None]]:
    """Orders as JSON."""
    queue = LiteQueue(f"{folder}/lite.db")
    queue.conn.execute("PRAGMA synchronous=FULL")

    def put(order: dict[str, Any]) -> None:
        queue.put(json.dumps(order))

    def consume(count: int) -> None:
        watch = Watch()
        while (message := queue.pop()) is not None:
            typed(json.loads(message.data))
            queue.done(message.message_id)
        watch.tell(count)

    return put, consume


if __name__ == "__main__":
    main(make)
