"""The fault matrix: one module a fault, `row_NN_name.py`, with a `ROW`.

`python -m tests.matrix` runs them and writes what they report.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

Figures = Mapping[str, str | int | float]
"""What a row reports: names with units ("first effect, s") and their values."""


class Row(NamedTuple):
    """A fault and what must hold under it.

    `run(folder)` makes the fault happen in an empty folder of its own, raises AssertionError where something does not
    hold, and returns the figures. It takes seconds: `quick` rows are part of every `make test`, others are `slow`.
    """

    number: str
    fault: str
    expected: str
    run: Callable[[Path], Awaitable[Figures]]
    quick: bool = True


def rows() -> list[Row]:
    """All rows, in the order of their modules' names."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("row_*.py"))
    return [importlib.import_module(f"{__name__}.{name}").ROW for name in names]
