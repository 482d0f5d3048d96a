"""2b: a worker is killed around the commit that also publishes what its handler has returned or yielded.

There is no separate outbox and no relay: what a handler publishes is in the commit of its effect and acknowledgement.
So nothing has to be published again, and a second publish of the same id is told by publishers only.
"""

from __future__ import annotations

from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.row_01_kill_in_the_handler import held
from tidings.chaos.plan import Plan

PLAN = Plan(
    events=300, keys=16, workers=2, publishers=1, seed=3,
    faults={"committing": 1, "committed": 1, "published": 1, "republish": 30},
)  # fmt: skip


async def run(folder: Path) -> Figures:
    report = await held(PLAN, folder)
    return {
        "kills": report.faults["committing"] + report.faults["committed"] + report.faults["published"],
        "published twice": report.faults["republish"],
        "effects of what was published, more than once": report.duplicate_effects,
        "lost": report.lost,
        "unknown to the publisher, kept": report.unknown_kept,
    }


ROW = Row(
    "2b",
    "kill -9 around the commit that publishes (there is no separate outbox: state, acknowledgement and what is "
    "published are one commit), and of a publisher before it hears of its acknowledgement",
    "what is published is there with the effect or not at all; the same id again changes nothing",
    run,
)
