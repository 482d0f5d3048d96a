"""Whose turn it is: events in the order in which they came, one of a key at a time.

Any free lane takes the next event whose key nobody handles just now; what comes of a busy key waits for it and is
next when it is free. Pure data, no waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable

from tidings.broker import Delivery


class Turns:
    """The queue of one handler. `busy` holds the keys that are taken, each with what waits behind it."""

    def __init__(self) -> None:
        self.queue: deque[Delivery] = deque()
        self.busy: dict[str, deque[Delivery] | None] = {}
        self.stopped = False

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Put these at the end."""
        self.queue.extend(deliveries)

    def take(self, held: Collection[str] = ()) -> Delivery | None:
        """The next event whose turn it is, its key then busy; None for none. Keys in `held` are the taker's own."""
        queue, busy = self.queue, self.busy
        while queue:
            delivery = queue.popleft()
            key = delivery.record.key
            if key is None or key in held:
                return delivery
            if key not in busy:
                busy[key] = None
                return delivery
            waiting = busy[key]
            if waiting is None:
                busy[key] = deque((delivery,))
            else:
                waiting.append(delivery)
        return None

    def end(self, key: str | None) -> None:
        """The key is free: what waits behind it is next."""
        if key is not None and (waiting := self.busy.pop(key, None)):
            self.queue.extendleft(reversed(waiting))

    def withdraw(self, delivery: Delivery) -> int:
        """Forget the later events of its key and topic; returns how many there were."""
        key, topic = delivery.record.key, delivery.record.topic
        if key is None:
            return 0

        def stays(other: Delivery) -> bool:
            return other.record.key != key or other.record.topic != topic

        gone = _keep(self.queue, stays)
        if waiting := self.busy.get(key):
            gone += _keep(waiting, stays)
        return gone

    def again(self, delivery: Delivery) -> bool:
        """Put an event in front of all others; True where a later one of its key is being handled just now."""
        key = delivery.record.key
        if key is None or key not in self.busy:
            self.queue.appendleft(delivery)
            return False
        waiting = self.busy[key]
        if waiting is None:
            self.busy[key] = deque((delivery,))
        else:
            waiting.appendleft(delivery)
        return True

    def end_behind(self, delivery: Delivery, count: int) -> None:
        """The event that was handled has to come after `count` that wait for its key."""
        key = delivery.record.key
        waiting = (self.busy.get(key) if key is not None else None) or deque()
        waiting.insert(count, delivery)
        if key is not None:
            self.busy[key] = waiting
        self.end(key)

    def clear(self) -> None:
        """Forget all that waits; busy keys stay busy."""
        self.queue.clear()
        self.busy = dict.fromkeys(self.busy)

    def stop(self) -> None:
        """Nobody takes anything any more."""
        self.clear()
        self.stopped = True


def _keep(queue: deque[Delivery], stays: Callable[[Delivery], bool]) -> int:
    before = len(queue)
    kept = [delivery for delivery in queue if stays(delivery)]
    queue.clear()
    queue.extend(kept)
    return before - len(kept)
