"""A short run of real processes that are killed, whether it would notice what it looks for, and the failpoints."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidings.chaos import driver
from tidings.chaos.address import find
from tidings.chaos.ledger import Report
from tidings.chaos.plan import Plan
from tidings.errors import ConfigError
from tidings.failpoint import armed

# As long as something moves, a run may take its time on a busy machine.
pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


def run_here(plan: Plan, folder: Path) -> Report:
    report = asyncio.run(driver.run(plan, find(f"sqlite:{folder / 'tidings.db'}"), folder))
    print(report.line, *report.problems, (folder / "log").read_text()[-4000:], sep="\n")
    return report


def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    report = run_here(Plan(events=600, keys=16, faults={"kill": 5, "freeze": 1, "stop": 1}, seed=1), tmp_path)
    assert not report.problems
    assert report.lost == report.phantom == report.duplicate_effects == report.inversions == report.pending == 0
    assert report.acked + report.unknown == report.attempted == 600
    assert report.effects_once > 1200
    assert sum(report.faults.values()) >= 7


def test_a_handler_that_drops_events_is_found_out(tmp_path: Path) -> None:
    plan = Plan(events=120, keys=8, workers=1, publishers=1, faults={}, service="tests.crash.bugs:drops")
    report = run_here(plan, tmp_path)
    assert report.lost == 3
    assert report.problems == ["lost: 3 (book 0, book 50, book 100)"]


def test_a_handler_that_writes_outside_of_the_transaction_is_found_out(tmp_path: Path) -> None:
    plan = Plan(events=120, keys=8, workers=1, publishers=1, faults={}, service="tests.crash.bugs:outside")
    report = run_here(plan, tmp_path)
    assert report.duplicate_effects > 0
    assert any(problem.startswith("more than once: ") for problem in report.problems)


# -- the failpoints

PASSES = """
from tidings import failpoint
for passage in range(5):
    print(passage, flush=True)
    failpoint.hit("other")
    failpoint.hit("here")
"""


def passages(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASSES],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_failpoint_kills_at_its_passage() -> None:
    died = passages({"TIDINGS_FAILPOINT": "here:3=kill"})
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "0\n1\n2\n")


def test_without_the_variable_a_failpoint_does_nothing() -> None:
    assert passages({}).returncode == 0


@pytest.mark.parametrize("text", ["here", "here:0=kill", "here:1=explode", "here:1=kill,there:1=kill"])
def test_a_failpoint_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="TIDINGS_FAILPOINT"):
        armed(text)
