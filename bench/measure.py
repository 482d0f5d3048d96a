"""What a measure is: two functions that do the same work, ours and by hand, and what the comparison is to reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from bench.reading import Reading, Task


class Goal(msgspec.Struct, frozen=True):
    """What `of` (our figure, or ours / raw) is to reach: at least or at most `limit`."""

    of: Literal["ours", "ratio"]
    at: Literal["least", "most"]
    limit: float

    def __str__(self) -> str:
        figure = "ours" if self.of == "ours" else "ours / raw"
        return f"{figure} at {self.at} {self.limit:g}"

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether it is reached."""
        value = ours if self.of == "ours" or ratio is None else ratio
        return value >= self.limit if self.at == "least" else value <= self.limit


class Also(msgspec.Struct, frozen=True):
    """A further row from the same rounds: what they read beside their main figure. `cpu`: where its CPU stands."""

    name: str
    figure: str
    unit: str
    what: str
    goal: Goal
    cpu: str = ""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, and the two sides of it; some things have no raw twin.

    `prepare` runs once, before the rounds. `together`: the rounds do not disturb each other, and run all at once.
    `long`: only on demand. More is better where the goal is "at least", less where it is "at most".
    """

    unit: str = "events/s"
    what: str
    goal: Goal
    ours: Callable[[Task], Reading]
    raw: Callable[[Task], Reading] | None
    prepare: Callable[[Task], None] | None = None
    also: tuple[Also, ...] = ()
    together: bool = False
    long: bool = False
