"""20: events that do not fit their schema.

Who publishes one is told which field does not fit. What another program has put on the topic is a dead letter at once,
with the field as its cause: no try can mend it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tests.matrix import Figures, Row
from tests.matrix.site import Site, effect, until
from tidings import App, Event, InvalidEvent, Record, Start

REQUIRED = ("order_id", "total", "lines", "currency")
Quantity = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Line(msgspec.Struct):
    sku: str
    quantity: Quantity


class Ordered(Event, name="order.placed", key="order_id"):
    order_id: str
    total: Decimal
    lines: list[Line]
    currency: Literal["EUR", "USD"]
    express: bool = False
    notes: dict[str, str] = msgspec.field(default_factory=dict)


app = App("shop")


@app.on(Ordered, start=Start.EARLIEST)
def book(order: Ordered, db: sqlite3.Connection) -> None:
    effect(db, "book", order.order_id, 1)


def fitting(order_id: str) -> dict[str, Any]:
    return {
        "order_id": order_id, "total": "9.90", "lines": [{"sku": "a", "quantity": 2}], "currency": "EUR",
        "express": True, "notes": {"door": "left"},
    }  # fmt: skip


def misfits() -> list[tuple[str, dict[str, Any]]]:
    """Each with the field that does not fit: every field left out, of every other type, and out of its bounds."""
    fits = {
        "order_id": str, "total": (str, int, float), "lines": list, "currency": (), "express": bool, "notes": dict,
    }  # fmt: skip
    values: list[Any] = ["text", 1, 2.5, None, True, [], {}, [1], {"a": 1}]
    lines: list[Any] = [
        [{"sku": "a"}], [{"quantity": 1}], [{"sku": "a", "quantity": 0}], [{"sku": "a", "quantity": 1001}], [1],
    ]  # fmt: skip
    return [
        *((name, {field: value for field, value in fitting("x").items() if field != name}) for name in REQUIRED),
        *((name, {**fitting("x"), name: value}) for name in fits for value in values
          if not isinstance(value, fits[name]) or (value is True and name != "express")),
        *(("lines", {**fitting("x"), "lines": each}) for each in lines),
        ("total", {**fitting("x"), "total": "text"}),
        ("notes", {**fitting("x"), "notes": {"a": 1}}),
    ]  # fmt: skip


async def refused(publisher: App, cases: list[tuple[str, dict[str, Any]]]) -> int:
    """By `publish`, which names the field."""
    count = 0
    for field, case in cases:
        try:
            await publisher.publish(Ordered(**case))
        except (InvalidEvent, TypeError) as error:  # TypeError: without a field, Python does not even make the event
            count += field in str(error)
    return count


async def on_the_command_line(site: Site, field: str, case: dict[str, Any]) -> None:
    code, said = await site.run("publish", "order.placed", json.dumps(case), "--app", f"{__name__}:app")
    assert code == 1, said
    assert field in said
    assert "Traceback" not in said


async def run(folder: Path) -> Figures:
    cases = misfits()
    async with Site(folder, __name__) as site, site.publisher() as publisher:
        assert await refused(publisher, cases) == len(cases)
        for field, case in cases[:: len(cases) // 3]:
            await on_the_command_line(site, field, case)
        assert site.rows("SELECT count(*) FROM tidings_log") == [(0,)]
        worker = await site.start()
        began = time.monotonic()
        records = [Record("order", json.dumps(case).encode(), "x", "order.placed", f"bad-{n}", time.time())
                   for n, (_, case) in enumerate(cases)]  # fmt: skip
        good = Record("order", json.dumps(fitting("good")).encode(), "x", "order.placed", "good", time.time())
        assert publisher.connection is not None
        await publisher.connection.broker.publish([*records, good])
        await until(lambda: len(site.letters("shop.book")) == len(cases) and site.effects())
        seconds = time.monotonic() - began
        letters, effects = site.letters("shop.book"), site.effects()
        assert not worker.logged("tried again")
        assert await worker.stop() == 0
    for letter, (field, case) in zip(letters, cases, strict=True):
        assert letter.headers["deaderror"] == "DecodeError"
        assert field in letter.cause, (letter.cause, field)
        assert json.loads(letter.body) == case, "the payload is untouched"
    assert [each.key for each in effects] == ["good"]
    retries = max(letter.attempts for letter in letters) - 1
    assert retries == 0
    return {
        "events that do not fit": len(cases), "refused, the field named": len(cases), "on the topic: dead letters":
        len(letters), "retries": retries, "all buried and the one behind them handled, s": seconds,
    }  # fmt: skip


ROW = Row(
    "20",
    "events that do not fit their schema: fields missing, of every other type, out of bounds",
    "refused by `publish`, which names the field; where another program has put them on the topic, a dead letter at "
    "once with the field as its cause; what comes behind it in its key goes on",
    run,
)
