"""`tidings simulate`: seeds, processes, tokens, and what is said of a bad target."""

from pathlib import Path

import pytest

from tests.cli.terminal import Result, tidings

BAD_DAYS = """
from tidings import App, Event
from tidings.testing.sim import Simulation, simulate

class Placed(Event, name="order.placed", key="order_id"):
    order_id: str

app = App("orders")

@app.on(Placed)
async def take(placed: Placed) -> None:
    pass

@simulate(app)
async def scenario(simulation: Simulation) -> None:
    await simulation.publish(Placed(order_id="o"))

@simulate(app)
async def wrong(simulation: Simulation) -> None:
    await scenario_of(simulation)
    assert simulation.seed < 5, "it is seed 5"

async def scenario_of(simulation: Simulation) -> None:
    await simulation.publish(Placed(order_id="o"))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bad_days_here.py").write_text(BAD_DAYS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def simulate(*arguments: str) -> Result:
    return tidings("simulate", *arguments)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("target", ["bad_days_here:app", "bad_days_here:scenario"])
def test_every_seed_is_played_once(target: str, workers: str) -> None:
    done = simulate(target, "--seeds", "25", "--workers", workers, "--json")
    assert done.code == 0, done.err
    assert done.json["runs"] == 25


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_fails_is_shrunk_and_its_token_plays_it_again(workers: str) -> None:
    done = simulate("bad_days_here:wrong", "--seeds", "9", "--workers", workers, "--json")
    assert done.code == 1, done.err
    said = done.json
    assert said["failed"]
    assert "it is seed 5" in said["report"]
    again = simulate("bad_days_here:wrong", "--replay", said["token"])
    assert again.code == 1
    assert "it is seed 5" in again.err


def test_how_many_processes_play_changes_nothing() -> None:
    one, two = (simulate("bad_days_here:app", "--seeds", "20", "--workers", n, "--json").json for n in "12")
    assert (one["steps"], one["faults"]) == (two["steps"], two["faults"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bad_days_here:nothing"], "nothing"),
        (["no_such_module:app"], "there is no module 'no_such_module'"),
        (["bad_days_here:app", "--faults", "rain"], "unknown fault 'rain'"),
        (["bad_days_here:app", "--replay", "xyz"], "no replay token"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str) -> None:
    done = simulate(*arguments)
    assert done.code == 2
    assert said in done.err
