"""25b: the lock of 25 for 30 seconds, which nobody waits for: publishers are told, workers try again."""

from __future__ import annotations

from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.row_25_locked import wait_for_it

LOCKED = 30.0


async def run(folder: Path) -> Figures:
    figures = await wait_for_it(folder, LOCKED, workers=2)
    assert int(figures["publishes refused, and told again"]) > 0
    return figures


ROW = Row(
    "25b",
    f"as 25, for {LOCKED:g} s",
    "publishers get PublishFailed after their wait and may tell it again under the same id; workers wait for their "
    "database and live; nothing is lost or doubled, and all goes on by itself",
    run,
    quick=False,
)
