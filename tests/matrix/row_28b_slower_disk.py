"""28b: half a second for each fsync, and a lease of ten."""

from __future__ import annotations

from pathlib import Path

from tests.matrix import Figures, Row, row_28_slow_disk
from tests.matrix.row_28_slow_disk import Pace, check

PACE = Pace(0.5, 10.0, 25.0)


async def run(folder: Path) -> Figures:
    return await check(folder, PACE)


ROW = Row(
    "28b",
    f"as 28, with {PACE.delay:g} s and a lease of {PACE.lease:g} s",
    row_28_slow_disk.ROW.expected,
    run,
    quick=False,
)
