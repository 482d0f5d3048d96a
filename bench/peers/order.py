"""The same order for the peers, as standard dataclasses: their environment has no tidings."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Line:
    """One line of an order."""

    sku: str
    quantity: int
    price: float


@dataclasses.dataclass
class Order:
    """See bench.sample.OrderPlaced."""

    order_id: str
    customer: str
    lines: list[Line]
    total: float
    placed_at: float
    note: str


def read(path: str) -> list[dict[str, Any]]:
    """The orders of a file, one JSON object a line."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def typed(order: dict[str, Any]) -> Order:
    """An object of the classes above."""
    return Order(**{**order, "lines": [Line(**line) for line in order["lines"]]})


class Watch:
    """Wall clock and CPU of the process; see bench.reading."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def tell(self, events: int) -> None:
        """Print the events a second until now, and the CPU of one in µs."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        print(json.dumps({"value": events / wall, "cpu": cpu / events * 1e6}), flush=True)
