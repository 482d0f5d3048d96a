"""How the parts of the keys are shared out among the members of a group."""

from dataclasses import dataclass

import pytest

from tidings.roster import claimable, going, let_go, share


@dataclass
class Part:
    pending: int = 0
    leaving: float | None = None


@pytest.mark.parametrize("parts", [1, 7, 8, 32])
@pytest.mark.parametrize("members", [1, 2, 3, 8, 9])
def test_all_parts_are_shared_and_nobody_has_two_more_than_another(parts: int, members: int) -> None:
    alive = [f"m{number}" for number in range(members)]
    shares = [share(parts, alive, name, group="shop.reserve") for name in alive]
    assert sum(shares) == parts
    assert max(shares) - min(shares) <= 1


def test_who_has_one_more_is_not_the_same_in_each_group() -> None:
    alive = ["m0", "m1", "m2"]
    most = {max(alive, key=lambda name: share(4, alive, name, group=f"group{n}")) for n in range(20)}
    assert most == set(alive)


def test_a_member_that_the_others_do_not_know_yet_takes_no_more_than_a_share() -> None:
    assert share(8, [], "m1", group="g") == 8
    assert share(8, ["m0"], "m1", group="g") == 4


def test_parts_of_the_dead_are_claimed_up_to_the_share_and_ours_always() -> None:
    others: dict[int, str | None] = {0: "dead", 1: "alive", 2: "me", 3: None, 4: "", 5: "me"}
    assert claimable(others, ["alive", "me"], "me", 4) == [2, 5, 0, 3]
    assert claimable(others, ["alive", "me"], "me", 0) == [2, 5]


def test_the_parts_with_the_least_out_are_let_go_first_and_those_that_stay_go_no_more() -> None:
    busy, quiet, back = Part(5), Part(0), Part(2, leaving=1.0)
    let_go([busy, quiet, back], 1, 9.0)
    assert (busy.leaving, quiet.leaving, back.leaving) == (None, 9.0, 1.0)
    let_go([busy, quiet, back], 3, 12.0)
    assert (busy.leaving, quiet.leaving, back.leaving) == (None, None, None)


def test_what_goes_is_waited_for_until_its_time_has_come() -> None:
    stays, empty, waited, late = Part(3), Part(0, leaving=9.0), Part(1, leaving=9.0), Part(1, leaving=4.0)
    assert going([stays, empty, waited], 5.0) == ([empty], False)
    assert going([stays, empty, waited, late], 5.0) == ([empty, late], True)
