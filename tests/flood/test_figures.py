"""What a flood comes to, worked out from evidence of which all is known."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidings.broker import Record
from tidings.clock import Clock
from tidings.flood.figures import PUBLISH, WHOLE, Curve, Figures, HandlerStage, Latency, figures
from tidings.flood.growth import Growth
from tidings.flood.ledger import Ledger
from tidings.flood.load import Load
from tidings.flood.notes import BACK, DERIVED, FOREIGN, SETTLED, TOLD, Block
from tidings.flood.publisher import NEVER, Publisher
from tidings.flood.run import Evidence, Letters
from tidings.flood.words import grown, rows, summary, verdict

BEGAN = 1000.0
GROUPS = {"shop.pay": ["order"], "shop.ship": ["payment"]}


class Case:
    """Arrivals every tenth of a second, acknowledged a hundredth later."""

    def __init__(self, count: int = 10) -> None:
        self.ledger = Ledger()
        broker: Any = None
        times = array("d", (number / 10 for number in range(count)))
        self.publisher = Publisher(broker, Clock(), "run-", records=[Record("order", b"{}")], times=times)
        self.publisher.began = BEGAN
        self.publisher.acked = array("d", (at + 0.01 for at in times))
        self.left: dict[str, int] = {}
        self.deaths: Counter[str] = Counter()
        self.letters = {group: Letters(Counter(), {}) for group in GROUPS}

    def note(self, kind: int, name: str, at: float, *numbers: int) -> None:
        self.ledger.take(Block(kind, name, BEGAN + at, array("I", numbers)))

    def settle(self, group: str, numbers: Sequence[int], *, after: float, derived: int = 0) -> None:
        for number in numbers:
            self.note(SETTLED, group, number / 10 + after, number | derived)

    def pay_and_ship(self, numbers: Sequence[int]) -> None:
        self.settle("shop.pay", numbers, after=0.02)
        for number in numbers:
            self.note(TOLD, "payment", number / 10 + 0.02, number | DERIVED)
        self.settle("shop.ship", numbers, after=0.05, derived=DERIVED)

    def figures(self) -> Figures:
        evidence = Evidence(GROUPS, self.publisher, self.ledger, self.left, self.letters, self.deaths)
        return figures(evidence, Load(seconds=1.0), apps=["shop"], workers=1)


def stages(told: Figures) -> dict[str, HandlerStage]:
    return {stage.name: stage for stage in told.handlers}


def test_latency_counts_from_the_arrival_through_all_handlers() -> None:
    case = Case()
    case.pay_and_ship(range(10))
    told = case.figures()
    latencies = {stage.name: stage.latency.p99 for stage in (told.publish, *told.handlers, told.whole) if stage.latency}

    assert latencies == pytest.approx({PUBLISH: 0.01, "shop.pay": 0.02, "shop.ship": 0.05, WHOLE: 0.05})
    assert told.fine
    assert (told.events, told.offered) == (10, 10.0)
    assert told.done == 10.0
    assert {stage.lag_most for stage in told.handlers} == {1}
    assert sum(told.curves[WHOLE].rate) * told.window == pytest.approx(10, rel=0.01)
    assert sum(told.arriving) * told.window == pytest.approx(10, rel=0.01)
    assert verdict(told) == "All 10 events were kept and settled."


def test_what_nobody_settled_and_nobody_holds_is_lost() -> None:
    case = Case()
    case.pay_and_ship([number for number in range(10) if number != 4])
    told = case.figures()

    assert (told.lost, stages(told)["shop.pay"].lost, stages(told)["shop.ship"].lost) == (1, 1, 0)
    assert not told.fine
    assert told.whole.events == 9, "an arrival that is not settled has no end"
    assert verdict(told) == "Not well: 1 lost."


def test_an_answer_that_nobody_settled_is_lost_too() -> None:
    case = Case()
    case.pay_and_ship(range(10))
    case.note(TOLD, "payment", 0.3, 2 | DERIVED)
    told = case.figures()
    assert (told.lost, stages(told)["shop.ship"].lost) == (1, 1)


def test_what_waits_is_not_lost() -> None:
    case = Case()
    case.pay_and_ship(range(8))
    case.left = {"shop.pay": 2}
    told = case.figures()
    assert (told.lost, told.left) == (0, 2)
    assert verdict(told) == "Not well: 2 left waiting."


def test_what_was_refused_is_missed_by_nobody() -> None:
    case = Case()
    case.publisher.acked[3] = NEVER
    case.publisher.refused["PublishFailed"] += 1
    case.pay_and_ship([number for number in range(10) if number != 3])
    told = case.figures()
    assert (told.lost, told.refused, told.publish.events) == (0, {"PublishFailed": 1}, 9)
    assert not told.fine


def test_twice_dead_and_retried_are_told() -> None:
    case = Case()
    case.pay_and_ship(range(10))
    case.settle("shop.pay", [5], after=0.5)
    case.note(BACK, "shop.pay", 0.3, 5)
    case.letters["shop.pay"] = Letters(Counter(ValueError=1), {"ValueError": "no money"})
    pay = stages(told := case.figures())["shop.pay"]
    assert (pay.twice, pay.retried, pay.dead) == (1, 1, {"ValueError": 1})
    assert "Dead in shop.pay: 1 x ValueError: no money" in list(summary(told))


def test_events_of_others_are_left_out() -> None:
    case = Case()
    case.pay_and_ship(range(10))
    case.note(SETTLED, "shop.pay", 0.5, FOREIGN, FOREIGN)
    case.note(TOLD, "payment", 0.5, FOREIGN)
    told = case.figures()
    assert told.fine
    assert stages(told)["shop.pay"].events == 10


def test_the_handler_with_which_lag_begins_is_named() -> None:
    case = Case(1000)
    case.publisher.times = array("d", (number / 1000 for number in range(1000)))
    case.publisher.acked = array("d", case.publisher.times)
    for number in range(1000):
        done = max(number / 1000, number / 400 - 0.5)
        case.note(SETTLED, "shop.pay", done, number)
        case.note(TOLD, "payment", done, number | DERIVED)
        case.note(SETTLED, "shop.ship", done, number | DERIVED)
    told = case.figures()
    assert told.grows_first == "shop.pay"
    assert told.grows is not None
    assert told.grows.second == pytest.approx(0.333, abs=0.05)
    assert told.grows.done == pytest.approx(400, rel=0.05)
    assert "first at shop.pay, which does 4" in grown(told)
    assert told.grows.rate == pytest.approx(1000, rel=0.06)
    growing = {row[0]: row[8] != "-" for row in rows(told)}
    assert growing == {PUBLISH: False, "shop.pay": True, "shop.ship": False, WHOLE: True}


def test_what_json_tells_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "flood.md").read_text()
    structs = (Figures, HandlerStage, Latency, Growth, Curve)
    names = {field.name for struct in structs for field in msgspec.structs.fields(struct)}
    assert not {name for name in names if f"`{name}`" not in text}


def test_a_publisher_that_is_late_says_so() -> None:
    case = Case()
    case.pay_and_ship(range(10))
    case.publisher.late = array("d", [0.2] * 10)
    assert any("late, by 200 ms" in sentence for sentence in summary(case.figures()))
