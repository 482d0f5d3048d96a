"""Handlers of every kind against a model: whatever fails how often, each event has one outcome, and keys keep order.

A plan says of every event how often its handler fails before it succeeds. In the end each has had its effect once or
is a dead letter, what a success publishes is there once, and no event had its effect before an earlier one of its key
had its outcome. EXAMPLES=500 looks longer.
"""

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidings import App, Event, ItemsFailed, Retry, Tx
from tidings.testing import Kit

KEYS = ["a", "b", "c", None]
TIMES, AT_ONCE = 2, 1
MOST = (TIMES + 1) * (AT_ONCE + 1)
FAILURES = [0, 0, 0, 0, 1, 2, 3, MOST - 1, MOST, 99]
DAY = 86400.0
EXAMPLES = int(os.environ.get("EXAMPLES", "12"))


class Made(Event, name="thing.made", key="key"):
    number: int
    key: str | None
    failures: int


class Done(Event, name="work.done"):
    number: int


class Planned(Exception):
    """What a handler raises because the plan says so."""


class Work:
    """What handlers do, and how often they have tried."""

    def __init__(self) -> None:
        self.tries: Counter[int] = Counter()

    def fails(self, made: Made) -> bool:
        self.tries[made.number] += 1
        return self.tries[made.number] <= made.failures

    def one(self, made: Made, write: Callable[[Made], Any]) -> Done:
        write(made)
        if self.fails(made):
            raise Planned(made.number)
        return Done(number=made.number)

    def several(self, batch: Sequence[Made], write: Callable[[Made], Any]) -> list[Done]:
        """Those that fail take later ones of their key with them."""
        failed: list[tuple[Made, Exception]] = []
        for made in batch:
            stopped = any(made.key == other.key is not None for other, _ in failed)
            if stopped or self.fails(made):
                failed.append((made, Planned(made.number)))
        if len(failed) == len(batch):
            raise Planned("all")
        for made in batch:
            if all(made is not other for other, _ in failed):
                write(made)
        if failed:
            raise ItemsFailed(failed)
        return [Done(number=made.number) for made in batch]


def insert(db: sqlite3.Connection) -> Callable[[Made], Any]:
    return lambda made: db.execute("INSERT INTO effects VALUES (?, ?)", (made.number, made.key))


def plain(app: App, work: Work, effects: list[int]) -> Callable[..., Any]:
    async def handle(made: Made) -> Done:
        done = work.one(made, lambda _: None)
        await asyncio.sleep(0)
        effects.append(made.number)
        return done

    return handle


def with_tx(app: App, work: Work, effects: list[int]) -> Callable[..., Any]:
    table = app.table("last", list[int])

    async def handle(made: Made, tx: Tx) -> Done:
        row = f"{made.key}"
        before = await tx.get(table, row, [])
        await asyncio.sleep(0)
        tx.put(table, row, [*before, made.number])
        return work.one(made, lambda _: None)

    return handle


def in_thread(app: App, work: Work, effects: list[int]) -> Callable[..., Any]:
    def handle(made: Made) -> Done:
        done = work.one(made, lambda _: None)
        effects.append(made.number)
        return done

    return handle


def in_transaction(app: App, work: Work, effects: list[int]) -> Callable[..., Any]:
    def handle(made: Made, db: sqlite3.Connection) -> Done:
        return work.one(made, insert(db))

    return handle


def list_on_the_loop(app: App, work: Work, effects: list[int]) -> Callable[..., Any]:
    async def handle(batch: list[Made]) -> list[Done]:
        return work.several(batch, lambda made: effects.append(made.number))

    return handle


def list_in_transaction(app: App, work: Work, effects: list[int]) -> Callable[..., Any]:
    def handle(batch: list[Made], db: sqlite3.Connection) -> list[Done]:
        return work.several(batch, insert(db))

    return handle


KINDS = [plain, with_tx, in_thread, in_transaction, list_on_the_loop, list_in_transaction]
events = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(FAILURES)), min_size=1, max_size=14)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=EXAMPLES)
@example(plan=[("a", 2), ("a", 0)], split=0, concurrency=None)
@example(plan=[("a", 3), ("a", 0), ("b", 2)], split=0, concurrency=None)
@given(plan=events, split=st.integers(0, 14), concurrency=st.sampled_from([None, 1, 3]))
def test_each_event_has_one_outcome_in_the_order_of_its_key(
    kind: Callable[[App, Work, list[int]], Callable[..., Any]],
    plan: list[tuple[str | None, int]],
    split: int,
    concurrency: int | None,
) -> None:
    made = [Made(number=number, key=key, failures=failures) for number, (key, failures) in enumerate(plan)]
    asyncio.run(_run(kind, made, split, concurrency))


async def _run(kind: Any, made: list[Made], split: int, concurrency: int | None) -> None:
    app, work, effects = App("shop"), Work(), []  # type: ignore[var-annotated]
    function = kind(app, work, effects)
    retry = Retry(times=TIMES, first=10.0, factor=2.0, at_once=AT_ONCE)
    app.on(Made, retry=retry, concurrency=concurrency, name="handle")(function)
    async with Kit(app) as kit:
        await kit.sql("CREATE TABLE effects (number INTEGER, key TEXT)")
        if made[:split]:
            await kit.publish(*made[:split])
        await kit.advance(5.0)
        if made[split:]:
            await kit.publish(*made[split:])
        await kit.advance(DAY)
        dead = {letter.event.number for letter in await kit.dead()}
        done = Counter(event.number for event in await kit.heard(Done))
        seen = effects or [number for (number,) in await kit.sql("SELECT number FROM effects ORDER BY rowid")]
        if kind is with_tx:
            table = app.table("last", list[int])
            seen = [number for key in KEYS for number in await kit.row(table, f"{key}") or []]
    assert not dead & set(seen)
    assert dead | set(seen) == {each.number for each in made}, "an event without an outcome"
    assert max(Counter(seen).values(), default=1) == 1, "an effect twice"
    assert set(done) <= set(seen)
    assert max(done.values(), default=1) == 1
    if kind not in (list_on_the_loop, list_in_transaction):
        assert set(done) == set(seen), "an effect without what it publishes"
        assert {each.number for each in made if each.failures == 99} <= dead
        assert dead <= {each.number for each in made if each.failures >= MOST}
    if kind in (plain, with_tx, in_thread):  # a transaction may be run once more for the sake of others in it
        assert dead == {each.number for each in made if each.failures >= MOST}
    for key in KEYS[:-1]:
        mine = [number for number in seen if made[number].key == key]
        assert mine == sorted(mine), f"the order of {key}"
