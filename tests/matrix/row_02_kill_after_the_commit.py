"""2: a worker is killed when the effect is committed, before anybody has heard of it.

Effect and acknowledgement are one commit here, so there is no moment between the two: what is killed just before it has
neither, what is killed just after it has both, and does not come again.
"""

from __future__ import annotations

from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.row_01_kill_in_the_handler import held
from tidings.chaos.plan import Plan

PLAN = Plan(
    events=300, keys=16, workers=2, publishers=1, seed=2, faults={"settling": 1, "committing": 1, "committed": 1}
)


async def run(folder: Path) -> Figures:
    report = await held(PLAN, folder)
    return {
        "kills": sum(report.faults.values()),
        "deliveries an event, mean": report.deliveries_mean,
        "duplicate effects": report.duplicate_effects,
        "lost": report.lost,
    }


ROW = Row(
    "2",
    "kill -9 of a worker before, in and after the commit of the effect, which is also the acknowledgement",
    "either both are kept or neither; what is kept is not handled again",
    run,
)
