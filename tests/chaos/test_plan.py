"""Plans and profiles: what is shipped, what a file may say, what is refused with which words."""

from pathlib import Path

import pytest

from tidings.chaos.embedded import Embedded
from tidings.chaos.plan import ON_BROKER, PLACES, Plan, happening, republished
from tidings.chaos.profile import check, load, shipped
from tidings.chaos.remote import Remote
from tidings.errors import ConfigError

EVERYWHERE = PLACES | Embedded.places


def test_a_plan_of_twenty_kills_has_every_kind() -> None:
    faults = Plan().planned(EVERYWHERE)
    assert faults.total() == 22
    assert len(faults) == 19
    assert faults.keys() > EVERYWHERE.keys()
    assert Plan(faults={"kill": 40, "freeze": 1, "stop": 1}).planned(EVERYWHERE) > faults


def test_a_fault_that_is_named_happens_beside_the_kills() -> None:
    faults = Plan(faults={"kill": 20, "committed": 3, "roll": 0}).planned(EVERYWHERE)
    assert faults["committed"] == 4
    assert "roll" not in faults


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_as_many_events_are_published_twice_as_planned(count: int) -> None:
    plan = Plan(events=100, faults={"republish": count})
    assert sum(republished(plan, number) for number in range(100)) == count


def test_the_keys_of_an_event_belong_to_one_publisher() -> None:
    plan = Plan(events=500, publishers=3, keys=20)
    owners: dict[str, set[int]] = {}
    for number in range(500):
        what = happening(plan, number)
        if what.key.startswith("key-"):
            owners.setdefault(what.key, set()).add(number % 3)
    assert len(owners) == 18
    assert all(len(publishers) == 1 for publishers in owners.values())


async def nothing() -> None:
    """A fault of a server, of which there is none here."""


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_profile_can_be_used(name: str, tmp_path: Path) -> None:
    plan = load(name)
    store = f"sqlite:{tmp_path / 'tidings.db'}"
    server = Remote("nats://127.0.0.1:4222", store, faults=dict.fromkeys(ON_BROKER, nothing))
    check(plan, server if plan.faults.keys() & ON_BROKER else Embedded(store))
    assert plan.profile == name
    assert plan.planned(EVERYWHERE)


def test_there_are_profiles_for_kills_freezes_rolling_restarts_and_duplicates() -> None:
    assert shipped().keys() >= {"kills", "freezes", "rolling", "duplicates"}


def test_a_flag_wins_over_the_profile() -> None:
    plan = load("kills", events=10, workers=None, kills=2, seed=9)
    assert (plan.events, plan.workers, plan.seed) == (10, 3, 9)
    assert plan.faults == {"kill": 2, "freeze": 1, "stop": 1}


def test_a_file_is_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("events = 50\nlease = 0.5\n[faults]\ncommitted = 2\n")
    plan = load(str(file))
    assert (plan.profile, plan.events, plan.lease, plan.frozen_for) == ("mine", 50, 0.5, 0.75)
    assert plan.faults == {"committed": 2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("event = 3", "unknown key 'event'; did you mean 'events'?"),
        ("zzz = 3", "unknown key 'zzz'; there are: events, keys, "),
        ("events = 0", "Expected `int` >= 1 - at `$.events`"),
        ("events = 'many'", "Expected `int`, got `str` - at `$.events`"),
        ("lease = -1.0", "at `$.lease`"),
        ("faults = {kill = -1}", "at `$.faults"),
        ("events = ", "is not TOML"),
    ],
)
def test_a_profile_that_says_something_wrong_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.toml") as refused:
        load(str(file))
    assert sentence in str(refused.value)


def test_a_fault_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    site = Embedded(f"sqlite:{tmp_path / 'tidings.db'}")
    with pytest.raises(ConfigError, match="unknown fault 'comitted'; did you mean 'committed'"):
        check(Plan(faults={"comitted": 1}), site)
    with pytest.raises(ConfigError, match="11 events are to be published twice, but there are only 10"):
        check(Plan(events=10, faults={"republish": 11}), site)


def test_a_profile_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no profile 'explosions': neither a file nor one of .*kills"):
        load("explosions")
