"""How a run ends, whatever befalls it: no process is left, no folder, and a sentence says what happened."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tidings.chaos import address, driver
from tidings.chaos.driver import Progress, RunLost
from tidings.chaos.plan import Plan
from tidings.errors import ConfigError

# As long as something moves, a run may take its time on a busy machine.
pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

QUIET = Plan(events=200, keys=8, workers=2, publishers=1, faults={})


def processes_in(folder: Path) -> list[int]:
    """Those whose working folder it is, as the kernel has it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd").startswith(str(folder)):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def until(done: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came to that")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def nobody_is_left(folder: Path) -> Iterator[None]:
    yield
    assert not processes_in(folder)


def run_here(plan: Plan, folder: Path, tell: Callable[[Progress], None] = lambda _: None) -> driver.Report:
    return asyncio.run(driver.run(plan, address.find(f"sqlite:{folder / 'tidings.db'}"), folder, tell))


def test_a_run_whose_folder_is_removed_ends_at_once_with_a_sentence(folder: Path) -> None:
    def take_away(_: Progress) -> None:
        if processes_in(folder):
            folder.rename(folder.with_name("taken"))

    with pytest.raises(RunLost, match="was removed while the run went on"):
        run_here(QUIET, folder, take_away)
    assert not processes_in(folder.with_name("taken"))


def test_a_run_in_which_nothing_moves_is_broken_off_and_says_what_is_missing(folder: Path) -> None:
    plan = Plan(events=20, keys=8, workers=1, publishers=1, lease=1.0, patience=2.0, faults={"never": 1})
    site = address.find(f"sqlite:{folder / 'tidings.db'}")
    report = asyncio.run(driver.run(plan, site, folder))
    assert not report.ok
    assert "never: planned 1, fired 0" in report.problems
    assert any(
        problem.startswith("broken off: nothing has moved for 3.5 s") and problem.endswith("still to happen: never")
        for problem in report.problems
    )


def test_a_time_limit_breaks_a_run_off(folder: Path) -> None:
    plan = Plan(events=1_000_000, workers=1, publishers=1, time_limit=3.0, faults={})
    report = run_here(plan, folder)
    assert "broken off: the time limit of 3 s is over" in report.problems
    assert report.seconds < 60


def test_a_service_that_cannot_start_is_a_problem_with_its_last_words(folder: Path) -> None:
    report = run_here(Plan(events=20, workers=1, publishers=1, faults={}, service="tests.crash.bugs:nobody"), folder)
    assert any("ended by itself with exit code 1" in problem for problem in report.problems)
    assert any("AttributeError" in problem and "nobody" in problem for problem in report.problems)


def test_a_database_that_is_there_already_is_left_alone(folder: Path) -> None:
    (folder / "tidings.db").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        run_here(QUIET, folder)
    assert (folder / "tidings.db").read_text() == "mine"


@pytest.mark.parametrize("faults", [{"republish": 20, "kill_publisher": 1}, {"roll": 1}, {"freeze": 1}], ids="+".join)
def test_every_kind_of_fault_happens_and_nothing_is_lost(folder: Path, faults: dict[str, int]) -> None:
    report = run_here(Plan(events=200, keys=8, workers=2, publishers=1, lease=1.0, faults=faults), folder)
    assert not report.problems
    assert all(report.faults[kind] >= count for kind, count in faults.items())
    assert report.memory_peak is None or report.memory_peak > 2**20
    assert report.database_peak
    assert report.drained is not None


# -- the command, as a process


def command(tmp_path: Path, *words: str) -> "subprocess.Popen[str]":
    """`tidings chaos run` whose folder is in tmp_path."""
    return subprocess.Popen(
        [sys.executable, "-m", "tidings", "chaos", "run", *words],
        env={**os.environ, "TMPDIR": str(tmp_path / "run")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers_of(folder: Path) -> list[int]:
    ready = next(folder.glob("*/ready"), None)
    return [] if ready is None else [int(pid) for pid in ready.read_text().split()]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_it_reports_one_json_object(tmp_path: Path, folder: Path) -> None:
    process = command(tmp_path, "--events", "100", "--kills", "1", "--seed", "3", "--workers", "2", "--json")
    out, err = process.communicate()
    report = json.loads(out)
    assert not report["problems"], report
    assert process.returncode == 0
    assert err.startswith("ok seed 3: ")
    assert report["attempted"] == report["acked"] + report["unknown"] == 100
    assert {"lost", "phantom", "duplicate_effects", "inversions", "first_effect_p50", "wal_peak"} <= report.keys()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_its_processes_when_it_is_told_to(tmp_path: Path, folder: Path, number: signal.Signals) -> None:
    process = command(tmp_path, "--events", "1000000")
    until(lambda: workers_of(folder))
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 130
    assert not processes_in(folder)
    assert not list(folder.iterdir())


def test_no_process_outlives_it_when_it_is_killed_not_even_a_frozen_one(tmp_path: Path, folder: Path) -> None:
    process = command(tmp_path, "--events", "1000000")
    frozen = until(lambda: workers_of(folder))[0]
    os.kill(frozen, signal.SIGSTOP)
    until(lambda: state_of(frozen) == "T")  # it stands still when it is next to run
    process.kill()
    process.communicate()
    until(lambda: not processes_in(folder))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--profile", "explosions"], "There is no profile 'explosions'"),
        (["--broker", "kafka://192.0.2.1:9092"], "192.0.2.1 is not this machine"),
        (["--broker", "mqtt://127.0.0.1:1883"], "A chaos run knows sqlite:PATH, postgresql://HOST, nats://HOST"),
        (["--broker", "sqlite:x.db", "--server", "nats"], "leave one of them out"),
        (["--broker", "sqlite:x.db", "--store", "sqlite:y.db"], "sqlite:x.db is its own store: leave --store out"),
        (["--profile", "broker"], "befalls a server, and this run has none of its own"),
        (["--server", "oracle"], "A run can start and break: nats, valkey, rabbitmq, kafka, postgres; not 'oracle'"),
        (
            ["--broker", "sqlite:/nowhere/at/all.db"],
            "A run cannot begin at sqlite:/nowhere/at/all.db: The folder /nowhere/at",
        ),
        (["--events", "0"], "--events"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_exit_code_2(
    tmp_path: Path, folder: Path, words: list[str], sentence: str
) -> None:
    process = command(tmp_path, *words)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
    assert not list(folder.iterdir())


def test_the_shipped_profiles_are_listed_and_printed(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tidings", "chaos", "profiles"]
    listed = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout
    assert "kills" in {row["profile"] for row in json.loads(listed)}
    printed = subprocess.run([*words, "kills"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "mine.toml").write_text(printed)
    assert "kill = 20" in printed
