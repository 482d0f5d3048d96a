"""The judge, with evidence that is made up: each thing that must not be is found, and nothing else is."""

import msgspec
import pytest

from tidings.chaos.books import Effect
from tidings.chaos.embedded import Embedded
from tidings.chaos.evidence import Evidence, Peaks
from tidings.chaos.faults import Fault
from tidings.chaos.journal import Entries
from tidings.chaos.ledger import Counts, Report, judge
from tidings.chaos.plan import PLACES, Plan, happening, republished
from tidings.chaos.service import ACCOUNTS, shared

EVERYWHERE = PLACES | Embedded.places
PLAN = Plan(events=100, keys=8, faults={})
SALE = next(number for number in range(20, 100) if happening(PLAN, number).kind == "sold" and not shared(number))
KEY = happening(PLAN, SALE).key


class Made(msgspec.Struct):
    """Evidence of a run without a fault in which all went well, to be spoilt."""

    journal: Entries
    effects: list[Effect] = []
    starts: list[tuple[str, int]] = []
    dead: list[tuple[str, int]] = []
    shared: list[int] = []
    faults: list[Fault] = []

    def judged(self, plan: Plan = PLAN, **others: object) -> Report:
        made = Evidence(**{"drained": 0.5, **msgspec.structs.asdict(self), **others})  # type: ignore[arg-type]
        return judge(plan, made, EVERYWHERE)

    def problems(self, plan: Plan = PLAN, **others: object) -> list[str]:
        return self.judged(plan, **others).problems

    def drop(self, account: str, number: int) -> None:
        self.effects = [effect for effect in self.effects if effect[:2] != (account, number)]


@pytest.fixture
def made() -> Made:
    made = Made(Entries(set(range(100)), set(range(100))))
    for number in range(100):
        what = happening(PLAN, number)
        for account in ACCOUNTS[what.kind]:
            made.starts.append((account, number))
            if account != "hear":
                made.effects.append(Effect(account, number, what.key, pid=1, at=float(number + 1)))
        if "tally" in ACCOUNTS[what.kind] and shared(number):
            made.shared.append(number)
    return made


def test_a_run_in_which_all_went_well_has_no_problem(made: Made) -> None:
    report = made.judged()
    assert report.ok
    assert report.line.startswith("ok seed 0: 100 acked + 0 unknown (0 kept)")
    assert (report.deliveries_mean, report.deliveries_max) == (1.0, 1)


def test_a_missing_effect_is_lost(made: Made) -> None:
    made.drop("book", SALE)
    assert made.problems() == [f"lost: 1 (book {SALE})"]


def test_a_dead_letter_is_not_lost(made: Made) -> None:
    made.drop("book", SALE)
    made.dead.append(("book", SALE))
    assert not made.problems()


def test_an_event_that_was_only_attempted_may_be_missing_but_not_in_part(made: Made) -> None:
    made.journal.acked.remove(SALE)
    assert not made.problems()
    assert made.judged().unknown_kept == 1
    made.effects = [effect for effect in made.effects if effect.number != SALE]
    assert not made.problems()
    made.effects.append(Effect("book", SALE, KEY))
    assert made.problems()[0].startswith("lost: ")


@pytest.mark.parametrize("effect", [Effect("book", 1000, "key-1"), Effect("book", -1, "key-1"), Effect("note", SALE)])
def test_an_effect_that_nobody_caused_is_a_phantom(made: Made, effect: Effect) -> None:
    made.effects.append(effect)
    assert f"phantom: 1 ({effect.account} {effect.number})" in made.problems()


def test_an_effect_of_what_was_never_attempted_is_a_phantom(made: Made) -> None:
    made.journal.acked.remove(SALE)
    made.journal.attempted.remove(SALE)
    assert made.judged().phantom == len(ACCOUNTS["sold"])


def test_a_second_effect_is_a_duplicate_also_beside_a_dead_letter(made: Made) -> None:
    made.dead.append(("shipped", SALE))
    assert made.problems() == [f"more than once: 1 (shipped {SALE})"]
    assert made.judged().duplicate_effects == 1


def test_an_effect_after_that_of_a_later_event_of_its_key_is_an_inversion(made: Made) -> None:
    places = [place for place, effect in enumerate(made.effects) if effect[0] == "book" and effect.key == KEY]
    first, second = places[:2]
    made.effects[first], made.effects[second] = made.effects[second], made.effects[first]
    assert made.problems() == [f"out of order: 1 (book {made.effects[second].number})"]
    assert made.judged().inversions == 1


def test_a_lost_update_of_the_row_that_all_share_is_found(made: Made) -> None:
    made.shared.pop()
    assert made.problems()[0].startswith("the row that all processes write to")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pending": 3}, "3 deliveries are still pending"),
        ({"drained": None}, "the backlog was never worked off"),
        ({"damage": "row 1 missing"}, "the database is damaged: row 1 missing"),
        ({"problems": ["a worker ended by itself"]}, "a worker ended by itself"),
    ],
)
def test_a_run_that_did_not_end_well_has_failed(made: Made, change: dict[str, object], problem: str) -> None:
    assert made.problems(**change) == [problem]


def test_events_that_were_never_published_are_a_problem(made: Made) -> None:
    more = msgspec.structs.replace(PLAN, events=101)
    assert "only 100 of 101 events were published" in made.problems(more)


def test_a_planned_fault_that_never_happened_is_a_problem(made: Made) -> None:
    plan = msgspec.structs.replace(PLAN, faults={"kill": 2, "freeze": 1, "stop": 1, "roll": 0})
    made.faults = [Fault("kill_worker", 7, 1.0), Fault("kill_worker", 8, 2.0), Fault("freeze", 9, 3.0)]
    assert made.problems(plan) == ["kill_publisher: planned 1, fired 0", "stop: planned 1, fired 0"]


def test_publishing_twice_fires_as_often_as_it_was_journalled(made: Made) -> None:
    plan = msgspec.structs.replace(PLAN, faults={"republish": 10})
    made.journal.again = {number for number in range(100) if republished(plan, number)}
    assert not made.problems(plan)
    made.journal.again.pop()
    assert made.problems(plan) == ["republish: planned 10, fired 9"]


def test_the_first_effect_on_a_key_of_a_killed_worker_is_timed(made: Made) -> None:
    later = [effect for effect in made.effects if effect.account == "book" and effect.key == KEY][-1]
    made.effects = [
        effect._replace(pid=2) if effect.account == "book" and effect.key == KEY and effect != later else effect
        for effect in made.effects
    ]
    killed, frozen = later.at - 0.5, later.at - 0.75
    made.faults = [
        Fault("in_handler", 2, killed), Fault("kill_publisher", 2, later.at - 0.25), Fault("freeze", 2, frozen)
    ]  # fmt: skip
    report = made.judged()
    assert (report.first_effect_p50, report.first_effect_max, report.takeover_max) == (0.5, 0.5, 0.75)
    assert report.slowest == {"freeze": 0.75, "in_handler": 0.5, "kill_publisher": 0.25}
    assert {kind: max(waits) for kind, waits in report.waits.items()} == report.slowest


def test_the_peaks_are_the_most_that_was_seen(made: Made) -> None:
    peaks = Peaks()
    peaks.see(5, None, 1)
    peaks.see(3, 7, 2)
    report = made.judged(peaks=peaks)
    assert (report.memory_peak, report.wal_peak, report.database_peak) == (5, 7, 2)


def test_a_count_is_exact_where_a_byte_is_enough() -> None:
    counts = Counts(10)
    for number in (3, 3, 11, -1, -1):
        counts.add("a", number)
    for _ in range(300):
        counts.add("b", 0)
    assert dict(counts.items()) == {("a", 3): 2, ("a", 11): 1, ("a", -1): 2, ("b", 0): 255}
    assert (counts.at("a", 3), counts.at("a", 4), counts.at("none", 4), counts.at("a", -1)) == (2, 0, 0, 2)
