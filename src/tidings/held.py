"""What a member holds back: what failed until it is due, and behind it what came later of its key."""

from __future__ import annotations

from collections.abc import Iterator

from tidings.broker import Delivery

Queue = list[tuple[float, Delivery]]


class Held:
    """By what has to keep its order: the records of a key, or one record alone. `due` is on a monotonic clock."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str] | int, Queue] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[Delivery]:
        return (each for queue in self._queues.values() for _, each in queue)

    def holds_back(self, delivery: Delivery) -> bool:
        """Whether something of its key is held."""
        return place_of(delivery) in self._queues

    def put(self, delivery: Delivery, due: float = 0.0) -> None:
        """In line, behind what was lent before it of its key."""
        queue = self._queues.setdefault(place_of(delivery), [])
        queue.append((due, delivery))
        queue.sort(key=lambda held: held[1].receipt)

    @property
    def due(self) -> float | None:
        """When the next is to be lent."""
        return min((queue[0][0] for queue in self._queues.values()), default=None)

    def release(self, now: float) -> list[Delivery]:
        """What is due, with what waited behind it and need not wait any more."""
        free: list[Delivery] = []
        for place in [place for place, queue in self._queues.items() if queue[0][0] <= now]:
            queue = self._queues[place]
            while queue and queue[0][0] <= now:
                free.append(queue.pop(0)[1])
            if not queue:
                del self._queues[place]
        return free

    def clear(self) -> None:
        """Nothing of it is ours any more."""
        self._queues.clear()


def place_of(delivery: Delivery) -> tuple[str, str] | int:
    """What has to keep its order: the records of a key, or one record alone."""
    record = delivery.record
    return delivery.receipt if record.key is None else (record.topic, record.key)
