"""Which fault comes next: who is kept for what, how soon, and how much of a run each lets through."""

import pytest

from tidings.chaos.embedded import Embedded
from tidings.chaos.faults import RESERVE, Faults
from tidings.chaos.plan import PLACES, PUBLISHER, REPUBLISH, WORKER, Plan

EVERYWHERE = PLACES | Embedded.places
RARE = {name for name, place in EVERYWHERE.items() if place.rare}


def faults(events: int = 10_000, workers: int = 3, **planned: int) -> Faults:
    return Faults(Plan(events=events, workers=workers, faults=planned), EVERYWHERE)


def test_the_same_seed_chooses_the_same() -> None:
    one, other = faults(kill=40), faults(kill=40)
    for _ in range(10):
        place = one.places(WORKER, 1, []).popleft()
        assert other.places(WORKER, 1, []).popleft() == place
        assert one.passage(place) == other.passage(place)
    assert one.at_random == other.at_random


def test_the_first_worker_is_kept_for_the_rare_places() -> None:
    coming = faults(kill=20)
    assert set(coming.places(WORKER, 0, [])) == RARE
    assert not RARE & set(coming.places(WORKER, 1, []))
    coming.places(WORKER, 0, []).clear()
    assert set(coming.places(WORKER, 0, [])) == set(coming.places(WORKER, 1, []))


def test_one_worker_at_a_time_dies_at_a_frequent_place() -> None:
    coming = faults(kill=20)
    assert not coming.places(WORKER, 2, ["committed", None])
    assert coming.places(WORKER, 2, ["burying", None])
    assert coming.places(PUBLISHER, 0, ["committed"])


def test_a_worker_that_is_alone_dies_everywhere() -> None:
    coming = faults(workers=1, burying=1, committed=1)
    assert coming.places(WORKER, 0, []).popleft() == "burying"
    assert coming.places(WORKER, 0, []).popleft() == "committed"


@pytest.mark.parametrize("place", [name for name in EVERYWHERE if name not in RARE])
def test_a_place_that_was_missed_comes_again(place: str) -> None:
    coming = faults(**{place: 1})
    role = EVERYWHERE[place].role
    assert coming.places(role, 1, []).popleft() == place
    assert not coming.places(role, 1, [])
    coming.put_back(place)
    assert list(coming.places(role, 1, [])) == [place]


def test_what_happened_is_no_longer_missing() -> None:
    coming = faults(stop=2, freeze=1)
    coming.happened("stop", 7)
    coming.happened("kill_worker", 8)
    assert (coming.missing, coming.planned) == ({"stop": 1, "freeze": 1}, 3)
    assert [fault.kind for fault in coming.fired] == ["stop", "kill_worker"]


def test_publishing_twice_waits_for_nobody() -> None:
    assert not faults(**{REPUBLISH: 10}).missing


def test_each_planned_fault_lets_more_of_the_run_through() -> None:
    coming = faults(events=1000, stop=3)
    allowed = [coming.allowed]
    for _ in range(2):
        coming.happened("stop", 7)
        allowed.append(coming.allowed)
    assert allowed == [250, 500, 750]
    coming.happened("kill_worker", 8)
    assert coming.allowed == 750
    coming.happened("stop", 7)
    assert coming.allowed == 1000


def test_the_last_events_wait_for_all_faults_and_are_let_through_where_none_comes() -> None:
    coming = faults(events=1000, stop=20)
    for _ in range(19):
        coming.happened("stop", 7)
    assert coming.allowed == 1000 * (1 - RESERVE)
    coming.let_more_through()
    assert 1000 * (1 - RESERVE) < coming.allowed < 1000
    for _ in range(100):
        coming.let_more_through()
    assert coming.allowed == 1000


def test_a_fault_is_due_when_most_of_what_may_be_is_published() -> None:
    coming = faults(events=1000, stop=3)
    assert coming.due(0)
    coming.happened("stop", 7)
    assert not coming.due(399)
    assert coming.due(400)


def test_a_process_dies_soon_where_there_is_little_to_do_and_never_beyond_what_is_meant() -> None:
    few, many = faults(events=100, kill=20), faults(events=1_000_000, kill=20)
    assert max(few.passage("in_handler") for _ in range(200)) <= 40
    assert max(many.passage("in_handler") for _ in range(200)) <= 200
    assert 200 < max(many.passage("published") for _ in range(200)) <= 1_000_000 / 21 / 2
    assert max(few.passage("published") for _ in range(200)) <= 2
    assert {many.passage("burying") for _ in range(20)} == {1}
    assert many.passage(None) == 1
    few.let_more_through()
    assert {few.passage("in_handler") for _ in range(20)} == {1}  # so few are left that it might never come to more


def test_what_happens_unplanned_does_not_happen_at_random_once_more() -> None:
    coming = faults(stop=2, kill_worker=1)
    coming.happened("stop", 7)
    assert coming.at_random.count("stop") == 1
    coming.at_random.remove("stop")  # somebody is told to
    coming.happened("stop", 8)
    assert list(coming.at_random) == ["kill_worker"]
    coming.happened("stop", 9)
    assert list(coming.at_random) == ["kill_worker"]


def test_publishers_die_at_named_places_all_over_the_run() -> None:
    coming = faults(events=1000, published=4)
    died = []
    for published in range(1000):
        while coming.places(PUBLISHER, 0, []) and coming.publisher_due(published):
            coming.places(PUBLISHER, 0, []).popleft()
            died.append(published)
    assert died == [0, 0, 250, 500]
