"""3b: SIGTERM two hundred times, at random moments (celery #3802, #3653; dramatiq #148; FastStream #1648)."""

from __future__ import annotations

from pathlib import Path

from tests.matrix import Figures, Row, row_03_sigterm
from tests.matrix.row_03_sigterm import check

RUNS = 200


async def run(folder: Path) -> Figures:
    return await check(folder, RUNS)


ROW = Row("3b", f"as 3, with {RUNS} moments", row_03_sigterm.ROW.expected, run, quick=False)
