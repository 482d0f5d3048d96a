"""A row that two processes write: what conflicts is handled again, in its place."""

import asyncio

from tests.sim.contested import PLAN
from tests.sim.shop import Placed
from tidings import App, Retry, Tx
from tidings.testing.sim import Faults, Simulation
from tidings.testing.sim.node import COMMIT
from tidings.testing.sim.trial import Plan, Stage

app = App("contested")
total = app.table("total", int)
heard: list[int] = []


class NotNow(Exception):
    """The second event fails once, while the first is being committed in vain."""


@app.on(Placed, retry=Retry(first=0.1, at_once=0))
async def take(placed: Placed, tx: Tx, other: "Other") -> None:
    tries = heard.count(placed.number)
    heard.append(placed.number)
    tx.put(total, "all", await tx.get(total, "all", 0) + 1)
    if placed.number == 1:
        await (asyncio.sleep(1.0) if tries else other.writes())
    elif not tries:
        await asyncio.sleep(COMMIT / 2)
        raise NotNow


class Other:
    """Another process, which writes the row that the first event has read."""

    def __init__(self) -> None:
        self.app = App("other")

    async def writes(self) -> None:
        async with self.app.transaction() as transaction:
            transaction.put(total, "all", await transaction.get(total, "all", 0) + 100)


other = Other()
app.provide(other)


async def two_of_a_key(simulation: Simulation) -> None:
    heard.clear()
    other.app = simulation.client
    await simulation.publish(Placed(order_id="o", number=1), Placed(order_id="o", number=2))
    await simulation.settle()


def test_what_is_handed_back_while_an_earlier_one_conflicts_does_not_come_before_it() -> None:
    stage = Stage(Plan([app], two_of_a_key, faults=Faults.none(), processes=1))
    try:
        outcome = stage.play(0)
    finally:
        stage.close()
    assert outcome.error is None, outcome.error
    assert heard == [1, 2, 1, 2]


def test_who_conflicts_does_so_because_another_one_has_got_on() -> None:
    """Seed 9: where that was not so, two keys of a process doomed each other in turns, and nothing moved any more."""
    stage = Stage(PLAN)
    try:
        errors = [stage.play(seed).error for seed in range(5, 15)]
    finally:
        stage.close()
    assert errors == [None] * 10
