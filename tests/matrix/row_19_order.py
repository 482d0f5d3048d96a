"""19: every seventh event of some keys fails three times. What comes after it in its key waits; nobody else does."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.site import Site, by_key, doubled, effect, inversions
from tidings import App, Delivery, Event, Retry, Start, Tx

KEYS, EVENTS = 32, 42
FAILURES = 3
AGAIN = Retry(times=FAILURES, first=0.1, factor=2.0, at_once=0)
SAID = (0.1 + 0.2 + 0.4) * (EVENTS // 7)
"""Seconds that a failing key is held back by the policy, all in all."""


class Counted(Event, name="count.made", key="key"):
    key: str
    number: int


app = App("shop")
tally = app.table("tally", list[int])


def fail(event: Counted, attempt: int) -> None:
    if int(event.key[1:]) % 2 and event.number % 7 == 6 and attempt <= FAILURES:
        raise ConnectionError(f"attempt {attempt} fails")


@app.on(Counted, retry=AGAIN, start=Start.EARLIEST)
def book(event: Counted, db: sqlite3.Connection, delivery: Delivery) -> None:
    effect(db, "book", event.key, event.number, delivery.attempt)
    fail(event, delivery.attempt)


@app.on(Counted, retry=AGAIN, start=Start.EARLIEST)
async def count(event: Counted, tx: Tx, delivery: Delivery) -> None:
    tx.put(tally, event.key, [*await tx.get(tally, event.key, []), event.number])
    fail(event, delivery.attempt)


async def run(folder: Path) -> Figures:
    async with Site(folder, __name__) as site:
        await site.publish(Counted(key=f"k{key}", number=number) for number in range(EVENTS) for key in range(KEYS))
        workers = [await site.start() for _ in range(2)]
        await site.drained()
        for worker in workers:
            assert await worker.stop() == 0
        effects, tallied = site.effects(), site.tally("shop.tally")
        letters = site.letters("shop.book") + site.letters("shop.count")
    sequences = [*by_key(effects).values(), *tallied.values()]
    assert all(sequence == list(range(EVENTS)) for sequence in sequences)
    assert len(sequences) == 2 * KEYS
    assert not letters
    tries = {each.attempt for each in effects if each.number % 7 == 6 and int(each.key[1:]) % 2}
    assert tries == {FAILURES + 1}
    began = effects[0].at
    healthy, failing = (max(e.at for e in effects if int(e.key[1:]) % 2 == odd) - began for odd in (0, 1))
    assert failing > 0.75 * SAID, "retries were not delayed"
    assert healthy < failing / 2, "keys that do not fail were held back"
    return {
        "events that failed 3 times": len([e for e in effects if e.attempt > 1]),
        "inversions": inversions(sequences),
        "duplicate effects": sum(map(doubled, sequences)),
        "other keys were done after, s": healthy,
        "failing keys after, s": failing,
        "of that told by the policy, s": SAID,
    }


ROW = Row(
    "19",
    f"every 7th event of every second key fails {FAILURES} times",
    "later events of the key wait behind it, in every process; other keys do not wait; the effects of a key are in "
    "the order in which it was published",
    run,
)
