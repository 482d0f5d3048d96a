"""All runs of a stage share a file and connections to it: none of them sees anything of those before it."""

import gc
import sqlite3

import pytest

from tests.sim import contested, shop
from tidings import App
from tidings.testing.sim import Faults, Simulation
from tidings.testing.sim.trial import Plan, Stage

noting = App("noting")


@noting.on(shop.Placed)
def note(placed: shop.Placed, db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE own (number INTEGER)")  # fails where a table is left from another run
    db.execute("CREATE INDEX own_number ON own (number)")
    db.execute("CREATE INDEX known_number ON known (number)")
    db.execute("CREATE TEMP TABLE passing (number INTEGER)")
    db.execute("INSERT INTO known (number) VALUES (?)", (placed.number,))
    db.execute("INSERT INTO own VALUES (?)", (placed.number,))


async def place_one(simulation: Simulation) -> None:
    assert not simulation.sql("SELECT * FROM own")
    assert not simulation.log("order")
    await simulation.publish(shop.Placed(order_id="o", number=simulation.seed))
    await simulation.settle()
    assert not simulation.dead()
    assert simulation.sql("SELECT number FROM own") == [(simulation.seed,)]
    assert simulation.sql("SELECT number FROM known") == [(0,), (simulation.seed,)]


KNOWN = "CREATE TABLE known (number INTEGER{more}); INSERT INTO known (number) VALUES (0);"


@pytest.mark.parametrize("more", ["", ", twice INTEGER AS (number * 2)"], ids=["plain", "generated column"])
def test_a_run_sees_no_row_and_no_table_of_those_before_it(more: str) -> None:
    stage = Stage(Plan([noting], place_one, faults=Faults.none(), tables=KNOWN.format(more=more)))
    try:
        for seed in range(4):
            outcome = stage.play(seed)
            assert outcome.error is None, outcome.error
    finally:
        stage.close()


def test_runs_leave_nothing_in_memory() -> None:
    """Thousands of them share an interpreter; a world that is kept weighs as much as all that a run needs."""
    stage = Stage(contested.PLAN)
    try:
        for seed in (3, 35, 44, 46, 61, 76):  # processes that have handled what is not settled, or are still leaving
            assert stage.play(seed).error is None
        gc.collect()
        assert sum(isinstance(each, Simulation) for each in gc.get_objects()) <= 1  # that in which all was declared
    finally:
        stage.close()
