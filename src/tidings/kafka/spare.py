"""A client for what is asked now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class Spare(Generic[C]):
    """Made when it is needed, and given up while Kafka is away: each client dials all the time, asked or not.

    Safe for threads; whoever has got it may use it to the end.
    """

    def __init__(self, make: Callable[[], C], client: C | None = None) -> None:
        self._make = make
        self._client = client
        self._lock = threading.Lock()

    def get(self) -> C:
        """The one that there is, or a new one."""
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def give_up(self) -> None:
        """Disconnect, as soon as nobody uses it. Blocking, for a thread."""
        with self._lock:
            self._client = None
