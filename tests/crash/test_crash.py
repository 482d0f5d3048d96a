"""A short crash run, and whether a run would notice what it looks for."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.crash.checker import ACCOUNTS, Report, judge
from tests.crash.driver import run
from tests.crash.evidence import Effect, Evidence, Fault
from tests.crash.journal import ACKED, ATTEMPTED, Journal, read
from tests.crash.plan import Plan, event
from tests.crash.process import ROOT
from tests.crash.service import shared
from tidings.errors import ConfigError
from tidings.failpoint import armed

pytestmark = pytest.mark.crash


def run_here(plan: Plan, folder: Path) -> Report:
    report = judge(plan, run(plan, folder, lambda _: None))
    print(report.line, *report.problems, (folder / "log").read_text()[-4000:], sep="\n")
    return report


def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    report = run_here(Plan(events=600, keys=16, kills=5, seed=1, seconds=50.0), tmp_path)
    assert not report.problems
    assert report.lost == report.phantom == report.duplicates == report.inversions == report.pending == 0
    assert report.acked + report.unknown == report.attempted == 600
    assert report.effects_once > 1200
    assert sum(report.faults.values()) >= 7


def test_a_handler_that_drops_events_is_found_out(tmp_path: Path) -> None:
    report = run_here(Plan(events=120, keys=8, workers=1, publishers=1, kills=0, bug="drops"), tmp_path)
    assert report.lost == 3
    assert report.problems == ["lost: 3 (book 0, book 50, book 100)"]


def test_a_handler_that_writes_outside_of_the_transaction_is_found_out(tmp_path: Path) -> None:
    plan = Plan(events=120, keys=8, workers=1, publishers=1, kills=0, bug="outside")
    report = run_here(plan, tmp_path)
    assert report.duplicates > 0
    assert any(problem.startswith("more than once: ") for problem in report.problems)


# -- the checker, with evidence made up

PLAN = Plan(events=100, keys=8, kills=0)
SALE = next(number for number in range(20, 100) if event(PLAN, number).kind == "sold" and not shared(number))


def evidence() -> Evidence:
    """A run without a fault in which all went well."""
    made = Evidence(attempted=set(range(100)), acked=set(range(100)), drained=0.5)
    for number in range(100):
        what = event(PLAN, number)
        for account in ACCOUNTS[what.kind]:
            made.starts[account, number] += 1
            if account != "hear":
                made.effects.append(Effect(account, number, what.key, pid=1, at=float(number)))
        if "tally" in ACCOUNTS[what.kind] and shared(number):
            made.shared.append(number)
    return made


def problems(made: Evidence, plan: Plan = PLAN) -> list[str]:
    return judge(plan, made).problems


def test_a_run_in_which_all_went_well_has_no_problem() -> None:
    report = judge(PLAN, evidence())
    assert not report.problems
    assert report.line.startswith("ok seed 0: 100 acked + 0 unknown (0 kept)")


def test_a_missing_effect_is_lost() -> None:
    made = evidence()
    made.effects.remove(next(effect for effect in made.effects if effect[:2] == ("book", SALE)))
    assert problems(made) == [f"lost: 1 (book {SALE})"]


def test_a_dead_letter_is_not_lost() -> None:
    made = evidence()
    made.effects.remove(next(effect for effect in made.effects if effect[:2] == ("book", SALE)))
    made.dead["book", SALE] += 1
    assert not problems(made)


def test_an_event_that_was_only_attempted_may_be_missing_but_not_in_part() -> None:
    made = evidence()
    made.acked.remove(SALE)
    assert not problems(made)
    made.effects = [effect for effect in made.effects if effect.number != SALE]
    assert not problems(made)
    made.effects.append(Effect("book", SALE, event(PLAN, SALE).key))
    assert problems(made)[0].startswith("lost: ")


def test_an_effect_of_what_nobody_published_is_a_phantom() -> None:
    made = evidence()
    made.effects.append(Effect("book", 1000, "key-1"))
    assert problems(made) == ["phantom: 1 (book 1000)"]


def test_an_effect_for_the_wrong_handler_is_a_phantom() -> None:
    made = evidence()
    made.effects.append(Effect("note", SALE))
    assert problems(made) == [f"phantom: 1 (note {SALE})"]


def test_a_second_effect_is_a_duplicate_also_beside_a_dead_letter() -> None:
    made = evidence()
    made.dead["shipped", SALE] += 1
    assert problems(made) == [f"more than once: 1 (shipped {SALE})"]
    assert judge(PLAN, made).duplicates == 1


def test_an_effect_after_that_of_a_later_event_of_its_key_is_an_inversion() -> None:
    made = evidence()
    key = event(PLAN, SALE).key
    places = [place for place, effect in enumerate(made.effects) if effect.account == "book" and effect.key == key]
    first, second = places[:2]
    made.effects[first], made.effects[second] = made.effects[second], made.effects[first]
    assert problems(made) == [f"out of order: 1 (book {made.effects[second].number})"]


def test_a_lost_update_of_the_row_that_all_share_is_found() -> None:
    made = evidence()
    made.shared.pop()
    assert problems(made)[0].startswith("the row that all processes write to")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pending": 3}, "3 deliveries are still pending"),
        ({"drained": None}, "the backlog was never worked off"),
        ({"integrity": "row 1 missing"}, "the database is damaged: row 1 missing"),
        ({"crashes": ["a worker ended by itself"]}, "a worker ended by itself"),
    ],
)
def test_a_run_that_did_not_end_well_has_failed(change: dict[str, object], problem: str) -> None:
    assert problems(msgspec.structs.replace(evidence(), **change)) == [problem]


def test_events_that_were_never_published_are_a_problem() -> None:
    assert "only 100 of 101 events were published" in problems(evidence(), msgspec.structs.replace(PLAN, events=101))


def test_a_planned_fault_that_never_happened_is_a_problem() -> None:
    made = evidence()
    plan = msgspec.structs.replace(PLAN, kills=2)
    made.faults = [Fault("worker", 7, 1.0), Fault("worker", 8, 2.0), Fault("frozen", 9, 3.0)]
    assert problems(made, plan) == ["publisher: planned 1, fired 0", "stopped: planned 1, fired 0"]


def test_the_first_effect_on_a_key_of_a_killed_worker_is_timed() -> None:
    made = evidence()
    key = event(PLAN, SALE).key
    later = [effect for effect in made.effects if effect.account == "book" and effect.key == key][-1]
    made.effects = [
        effect._replace(pid=2) if effect.account == "book" and effect.key == key and effect != later else effect
        for effect in made.effects
    ]
    made.faults = [Fault("worker", 2, later.at - 0.5), Fault("publisher", 2, later.at - 0.25)]
    report = judge(PLAN, made)
    assert (report.first_effect_p50, report.first_effect_max) == (0.5, 0.5)


def test_a_plan_of_twenty_kills_has_every_kind() -> None:
    faults = Plan().faults()
    assert faults.total() == 22
    assert len(faults) == 19
    assert Plan(kills=40).faults() > faults


# -- the journal and the failpoints


def test_a_journal_forgets_a_line_that_was_being_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write(ATTEMPTED, [1, 2, 3])
    journal.write(ACKED, [1, 2])
    with path.open("a") as file:
        file.write("acked 3")
    assert read(path) == ({1, 2, 3}, {1, 2})


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
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=20,
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


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    assert not children.exists() or not Counter(children.read_text().split()) - Counter()
