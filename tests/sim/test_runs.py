"""Runs of a small shop: nothing is lost, each seed is always the same run, and what fails can be played again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import shop
from tidings.errors import ConfigError
from tidings.testing.sim import Faults, Simulation, SimulationFailed, simulate
from tidings.testing.sim.report import replay, token
from tidings.testing.sim.trial import Invariant, Plan, Stage

ROOT = Path(__file__).parents[2]
SEEDS = 500 if os.environ.get("CI") else 150
"""`make simulate` plays ten thousand."""
PLAN = Plan(shop.apps, shop.flow, [Invariant(shop.each_took_effect_once, "settle")], tables=shop.TABLES)
PRINT = """
from tests.sim.test_runs import PLAN
from tidings.testing.sim.trial import Stage
stage = Stage(PLAN)
for seed in range(4):
    outcome = stage.play(seed, trace=True)
    print(outcome.trace, [(moment.at, moment.process) for moment in outcome.timeline])
stage.close()
"""


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(PLAN)


@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_made_up_or_out_of_order(stage: Stage) -> None:
    for seed in range(SEEDS):
        outcome = stage.play(seed)
        if outcome.error is not None:
            raise AssertionError(f"seed {seed}: --replay {token(outcome)}") from outcome.error


def test_faults_of_every_kind_happen(stage: Stage) -> None:
    chosen = {label for seed in range(40) for label, _ in stage.play(seed).choices}
    assert chosen >= {"step", "nemesis", "stop", "leave", "clock", "slow_disk", "full_disk", "locked", "lost_reply",
                      "wakeup", "handler"}  # fmt: skip


def test_a_run_is_the_same_each_time_and_when_it_is_replayed(stage: Stage) -> None:
    for seed in range(5):
        first, second = stage.play(seed, trace=True), stage.play(seed, trace=True)
        assert first.trace == second.trace
        assert first.choices == second.choices
        again = stage.play(seed, first.choices, rates=first.rates, trace=True)
        assert again.trace == first.trace
        assert again.choices == first.choices


def test_a_run_does_not_depend_on_the_hashes_of_strings() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", PRINT], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0]
    assert said[0] == said[1]


def test_a_token_plays_the_same_run(stage: Stage) -> None:
    outcome = stage.play(3)
    read = replay(token(outcome))
    assert (read.seed, read.played, read.rates) == (3, outcome.choices, dict(outcome.rates))


@pytest.mark.parametrize("text", ["", "x", "AAAA", "not a token at all", token.__doc__ or ""])
def test_a_broken_token_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no replay token"):
        replay(text)


def test_unknown_faults_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown fault 'rain'; there are: order, crash"):
        Faults.only("rain")


async def nobody_is_paid_twice_in_a_row(simulation: Simulation) -> None:
    """What does not hold as soon as an order has two events."""
    assert len(await simulation.row(shop.taken, "o0") or []) < 2


def test_what_fails_is_kept_and_played_first_until_it_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    played: list[int] = []

    @simulate(*shop.apps, seeds=3, faults=Faults.none(), tables=shop.TABLES)
    async def scenario(simulation: Simulation) -> None:
        played.append(simulation.seed)
        await shop.flow(simulation)
        if broken:
            await simulation.settle()
            await nobody_is_paid_twice_in_a_row(simulation)

    broken = True
    with pytest.raises(SimulationFailed, match=r"seed 0, 0 choices") as failed:
        scenario()
    (kept,) = (tmp_path / ".tidings" / "failures").iterdir()
    assert kept.read_text().strip() == failed.value.token
    broken = False
    played.clear()
    assert scenario().runs == 4
    assert played == [0, 0, 1, 2]
    assert not kept.exists()
