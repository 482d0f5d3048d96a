"""1: a worker is killed with SIGKILL while a handler has written and not returned, and at a moment by chance."""

from __future__ import annotations

from pathlib import Path

from tests.matrix import Figures, Row
from tidings.chaos.address import find
from tidings.chaos.driver import run as run_chaos
from tidings.chaos.ledger import Report
from tidings.chaos.plan import Plan

PLAN = Plan(events=300, keys=16, workers=2, publishers=1, seed=1, faults={"in_handler": 2, "kill_worker": 1})


async def held(plan: Plan, folder: Path) -> Report:
    """The report of a run under which everything holds."""
    report = await run_chaos(plan, find(f"sqlite:{folder / 'tidings.db'}"), folder)
    assert report.ok, report.problems
    return report


async def run(folder: Path) -> Figures:
    report = await held(PLAN, folder)
    assert report.first_effect_p50 is not None
    return {
        "kills": sum(report.faults.values()),
        "lost": report.lost,
        "duplicate effects": report.duplicate_effects,
        "inversions": report.inversions,
        "first effect p50, s": report.first_effect_p50,
        "first effect max, s": report.first_effect_max or 0.0,
    }


ROW = Row(
    "1",
    "kill -9 of a worker in the middle of a handler",
    "its transaction is rolled back, the event goes to another worker; nothing is lost, doubled or out of order",
    run,
)
