"""`tidings dead`: list, show, edit, replay, drop; with two operators at once, and with one that is killed."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shop import HANDLER, Low, Placed, settled, work
from tests.cli.terminal import column, failed, finish, start, tidings
from tidings import App, Delivery, Retry, Start, dead
from tidings.clock import Clock

APP = "tests.cli.shop:app"


def die(*orders: Placed) -> list[str]:
    """Let the shop give up on these; returns their ids."""
    before = {event["id"] for event in tail("order")} if Path("tidings.db").exists() else set()
    assert work(*orders) == []
    return [event["id"] for event in tail("order") if event["id"] not in before]


def bad(count: int, error: str = "key", keys: int = 3) -> list[Placed]:
    return [Placed(order_id=f"o{n % keys}", total=n, bad=error) for n in range(count)]


def bury(*orders: Placed) -> None:
    """The same without a shop, which takes its time."""

    async def run() -> None:
        clock = Clock()
        async with App("shop") as app:
            assert app.connection is not None
            broker = app.connection.broker
            await dead.declare(broker, HANDLER)
            lent = [Delivery(app.codec.encode(order), 1, 0) for order in orders]
            await broker.publish([dead.bury(delivery, HANDLER, ValueError("bad"), clock) for delivery in lent])

    asyncio.run(run())


def tail(topic: str) -> list[Any]:
    return tidings("tail", topic, "--no-follow", "--json").lines


def replayed() -> list[int]:
    return [event["data"]["total"] for event in tail("replay.shop.ship")]


def causes(*args: str) -> Any:
    return tidings("dead", "list", "--json", *args).json


def left() -> int:
    return sum(column(causes(), "count"))


# -- list and show


def test_failures_are_grouped_by_what_they_died_of() -> None:
    ids = die(*bad(4, "key"), *bad(2, "value"))
    keys, values = causes()
    assert keys == {
        "handler": HANDLER, "error": "KeyError", "cause": "…", "count": 4,
        "first": keys["first"], "last": keys["last"], "example": keys["example"],
    }  # fmt: skip
    assert keys["first"] <= keys["last"]
    assert keys["example"] in ids[:4]
    assert (values["error"], values["cause"], values["count"]) == ("ValueError", "order …: value", 2)


def test_a_cause_that_does_not_vary_is_told_as_it_was() -> None:
    die(Placed(order_id="a", total=1, bad="value"), Placed(order_id="b", total=1, bad="value"))
    assert column(causes(), "cause") == ["order 1: value"]


def test_the_list_for_people() -> None:
    die(*bad(2))
    head, row = tidings("dead", "list").out.splitlines()
    assert head.split() == ["handler", "error", "cause", "count", "first", "last", "example"]
    assert row.split()[:2] == [HANDLER, "KeyError"]


def test_of_one_handler() -> None:
    die(*bad(2))
    assert column(causes(HANDLER), "count") == [2]
    assert failed(tidings("dead", "list", "shop.shop"), 2, "no handler 'shop.shop'", "did you mean shop.ship")


def test_nothing_died() -> None:
    work()
    assert tidings("dead", "list").out == "There are no dead letters.\n"
    assert causes() == []
    assert failed(tidings("dead", "list", "--broker", "sqlite:no.db"), 1, "There is no database")


def test_one_is_shown_with_all_that_is_known() -> None:
    (id,) = die(Placed(order_id="a", total=1, bad="value"))
    letter = tidings("dead", "show", id, "--json").json
    assert (letter["id"], letter["handler"], letter["topic"]) == (id, HANDLER, "order")
    assert (letter["type"], letter["key"], letter["attempts"]) == ("order.placed", "a", 1)
    assert (letter["error"], letter["cause"]) == ("ValueError", "order 1: value")
    assert "shop.py" in letter["where"]
    assert letter["data"] == {"order_id": "a", "total": 1, "bad": "value"}
    assert letter["history"] == []
    assert letter["published"] <= letter["died"]


def test_one_is_shown_to_people_without_what_a_terminal_would_obey() -> None:
    (id,) = die(Placed(order_id="\x1b[31m\x9b", total=1, bad="value"))
    out = tidings("dead", "show", id).out
    assert '"total": 1' in out
    assert all(char.isprintable() for char in out.replace("\n", ""))


def test_an_id_that_is_not_there() -> None:
    die(*bad(1))
    for command in ("show", "edit --set a=1", "replay --id", "drop --yes --id"):
        name, *rest = command.split()
        assert failed(tidings("dead", name, *rest, "nobody"), 2, "no open dead letter nobody")


def test_one_event_may_be_dead_in_two_handlers() -> None:
    app = App("shop")

    @app.on(Low, retry=Retry(times=0), start=Start.EARLIEST, name="one")
    @app.on(Low, retry=Retry(times=0), start=Start.EARLIEST, name="two")
    async def fail(low: Low) -> None:
        raise ValueError(low.sku)

    async def run() -> None:
        async with app.running():
            await app.publish(Low(sku="x"))
            await settled(app, "shop.one", topic="stock")
            await settled(app, "shop.two", topic="stock")

    asyncio.run(run())
    (id,) = column(tail("stock"), "id")
    assert failed(tidings("dead", "show", id), 2, "shop.one, shop.two", "--handler")
    assert tidings("dead", "show", id, "--handler", "shop.two", "--json").json["handler"] == "shop.two"
    assert tidings("dead", "replay", "shop.one", "--json").json == {"replayed": 1, "left": 0}
    assert column(causes(), "handler") == ["shop.two"]


# -- edit


def test_a_field_is_changed_and_what_it_was_is_kept() -> None:
    (id,) = die(Placed(order_id="a", total=1, bad="value"))
    for total in ("2", "3"):
        edited = tidings("dead", "edit", id, "--set", f"total={total}", "--set", "bad=", "--json")
        assert edited.json == {"id": id, "handler": HANDLER, "data": {"order_id": "a", "total": int(total), "bad": ""}}
    letter = tidings("dead", "show", id, "--json").json
    assert letter["data"] == {"order_id": "a", "total": 3, "bad": ""}
    assert [edit["before"] for edit in letter["history"]] == [
        '{"order_id":"a","total":1,"bad":"value"}',
        '{"order_id":"a","total":2,"bad":""}',
    ]
    assert left() == 1
    assert tidings("dead", "replay", "--id", id).code == 0
    assert work() == [Placed(order_id="a", total=3)]


def test_a_payload_from_a_file_or_from_standard_input() -> None:
    (id,) = die(Placed(order_id="a", total=1, bad="value"))
    Path("mended.json").write_text('{"order_id": "a",  "total": 5}\n')
    tidings("dead", "edit", id, "--file", "mended.json")
    assert tidings("dead", "show", id, "--json").json["data"] == {"order_id": "a", "total": 5}
    result = finish(start("dead", "edit", id, "--file", "-"), b'{"order_id": "a", "total": 6}')
    assert result.code == 0
    assert tidings("dead", "show", id, "--json").json["data"] == {"order_id": "a", "total": 6}


def test_a_path_leads_into_objects_and_lists() -> None:
    text = '{"order_id": "a", "items": [{"sku": "x"}, {"sku": "y"}]}'
    tidings("publish", "order.placed", text, "--key", "a")
    (id,) = column(tail("order"), "id")
    work()
    assert tidings("dead", "edit", id, "--set", "items.1.sku=z", "--set", "items.0.left=null").code == 0
    assert tidings("dead", "show", id, "--json").json["data"] == {
        "order_id": "a", "items": [{"sku": "x", "left": None}, {"sku": "z"}],
    }  # fmt: skip


def test_an_edit_is_checked_against_the_class() -> None:
    (id,) = die(Placed(order_id="a", total=1, bad="value"))
    assert failed(tidings("dead", "edit", id, "--set", "total=many", "--app", APP), 1, "field total", "int")
    assert tidings("dead", "show", id, "--json").json["history"] == []
    assert tidings("dead", "edit", id, "--set", "total=7", "--app", APP).code == 0


def test_an_edited_letter_keeps_its_place_among_those_of_its_key() -> None:
    first, second, *_ = die(*bad(4, keys=1))
    for id in (second, first):
        assert tidings("dead", "edit", id, "--set", "bad=").code == 0
    assert left() == 4
    tidings("dead", "replay", "--rate", "0")
    assert replayed() == [0, 1, 2, 3]


def test_a_payload_in_msgpack_stays_one() -> None:
    app = App("shop", encoding="msgpack")

    @app.on(Placed, retry=Retry(times=0))
    async def ship(order: Placed) -> None:
        raise ValueError(order.total)

    async def run() -> None:
        async with app.running():
            await app.publish(Placed(order_id="a", total=1))
            await settled(app, HANDLER)

    asyncio.run(run())
    (id,) = column(tail("order"), "id")
    assert tidings("dead", "edit", id, "--set", "total=2", "--app", APP).code == 0
    tidings("dead", "replay")
    assert work() == [Placed(order_id="a", total=2)]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["--set", "--file"]),
        (["--set", "a=1", "--file", "f"], ["either"]),
        (["--set", "total"], ["PATH=VALUE"]),
        (["--set", "nothing.here=1"], ["no 'nothing'"]),
        (["--set", "total.cents=1"], ["no 'cents' in 1"]),
        (["--file", "missing"], ["missing", "No such file"]),
        (["--file", "broken"], ["broken is not JSON"]),
    ],
)
def test_an_edit_that_cannot_be(args: list[str], words: list[str]) -> None:
    (id,) = die(Placed(order_id="a", total=1, bad="value"))
    Path("broken").write_text("{")
    assert failed(tidings("dead", "edit", id, *args), 2, *words)
    assert tidings("dead", "show", id, "--json").json["data"]["total"] == 1


# -- replay and drop


def test_replayed_letters_come_back_to_their_handler_in_the_order_of_their_keys() -> None:
    bury(*bad(600))
    assert tidings("dead", "replay", "--rate", "0", "--json").json == {"replayed": 600, "left": 0}
    assert left() == 0
    assert sorted(replayed()) == list(range(600))
    assert in_order(replayed())


def test_what_fails_again_is_a_dead_letter_again() -> None:
    (id,) = die(*bad(1))
    tidings("dead", "replay")
    assert left() == 0
    work()
    assert column(causes(), "example") == [id]


def test_by_error_id_and_number() -> None:
    ids = die(*bad(3, "key", keys=1), *bad(3, "value", keys=1))
    assert tidings("dead", "replay", "--error", "ValueError", "--limit", "2", "--json").json["replayed"] == 2
    assert replayed() == [0, 1]
    assert [(cause["error"], cause["count"]) for cause in causes()] == [("KeyError", 3), ("ValueError", 1)]
    assert tidings("dead", "replay", "--id", ids[1], "--id", ids[5], "--json").json == {"replayed": 2, "left": 0}
    assert replayed()[2:] == [1, 2]
    assert tidings("dead", "replay", "--error", "OSError", "--json").json == {"replayed": 0, "left": 0}


def test_replay_keeps_to_its_rate() -> None:
    die(*bad(10))
    began = time.monotonic()
    tidings("dead", "replay", "--rate", "20/s")
    assert time.monotonic() - began >= 0.4  # two at once, every tenth of a second
    assert failed(tidings("dead", "replay", "--rate", "fast"), 2, "fast", "100/s")


def test_dropped_letters_are_gone() -> None:
    ids = die(*bad(3))
    assert tidings("dead", "drop", "--id", ids[1], "--yes", "--json").json == {"dropped": 1, "left": 0}
    assert left() == 2
    assert tidings("dead", "drop", HANDLER, "--yes").out == "Dropped 2 dead letters.\n"
    assert replayed() == []


def test_dropping_asks_first() -> None:
    die(*bad(2))
    refused = tidings("dead", "drop", answer="n\n")
    assert refused.code != 0
    assert "Drop 2 dead letters for good?" in refused.err
    assert left() == 2
    assert tidings("dead", "drop", answer="y\n").code == 0
    assert left() == 0


def test_two_operators_at_once_replay_nothing_twice() -> None:
    bury(*bad(400))
    operators = [start("dead", "replay", "--rate", "0", "--json") for _ in range(2)]
    results = [finish(operator) for operator in operators]
    assert all("Traceback" not in result.err for result in results)
    assert sum(result.json["replayed"] for result in results) == 400
    assert sorted(replayed()) == list(range(400))
    assert left() == 0


def test_what_is_not_chosen_keeps_its_order() -> None:
    ids = die(*bad(8, keys=1))
    assert tidings("dead", "drop", "--id", ids[3], "--yes").code == 0
    assert tidings("dead", "replay", "--id", ids[5]).code == 0
    assert tidings("dead", "replay").code == 0
    assert replayed() == [5, 0, 1, 2, 4, 6, 7]


HOLD = """
import asyncio
import os

from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect


async def hold():
    broker, _ = connect(load(), Clock())
    await broker.open()
    letters = await broker.subscribe(["dead.shop.ship"], "operator.shop.ship")
    held = await letters.fetch(100, 5.0)
    os.write(1, str(len(held)).encode())
    await asyncio.sleep(60)


asyncio.run(hold())
"""


def test_letters_that_an_operator_held_when_he_was_killed_can_be_chosen_and_edited() -> None:
    ids = die(*bad(12))
    operator = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    assert operator.stdout is not None
    assert operator.stdout.read(2) == b"12"
    assert left() == 12
    operator.kill()
    operator.communicate()
    assert tidings("dead", "edit", ids[0], "--set", "bad=").code == 0
    assert tidings("dead", "drop", "--id", ids[7], "--yes", "--json").json == {"dropped": 1, "left": 0}
    assert tidings("dead", "replay", "--rate", "0", "--json").json == {"replayed": 11, "left": 0}
    assert in_order(replayed())
    assert sorted(replayed()) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_letters_that_another_operator_holds_are_left_to_him() -> None:
    die(*bad(12))
    operator = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    assert operator.stdout is not None
    assert operator.stdout.read(2) == b"12"
    result = tidings("dead", "replay", "--json")
    operator.kill()
    operator.communicate()
    assert failed(result, 1, "12 dead letters could not be replayed", "another operator")
    assert result.json == {"replayed": 0, "left": 12}
    assert (replayed(), left()) == ([], 12)


def in_order(totals: list[int]) -> bool:
    """Whether the orders of each of three keys are in the order in which they died."""
    return all(of_key == sorted(of_key) for key in range(3) if (of_key := [n for n in totals if n % 3 == key]))


def test_an_operator_who_is_killed_leaves_each_letter_replayed_once_or_open() -> None:
    die(*bad(60))
    operator = start("dead", "replay", "--rate", "50/s")
    while len(replayed()) < 5:
        time.sleep(0.02)
    operator.send_signal(signal.SIGKILL)
    finish(operator)
    done = len(replayed())
    assert done + left() == 60
    assert tidings("dead", "replay", "--rate", "0", "--json").json == {"replayed": 60 - done, "left": 0}
    assert sorted(replayed()) == list(range(60))
    assert in_order(replayed())


def test_after_an_operator_was_killed_some_can_be_chosen() -> None:
    ids = die(*bad(40, keys=40))
    operator = start("dead", "replay", "--rate", "20/s")
    while not replayed():
        time.sleep(0.02)
    operator.kill()
    finish(operator)
    open_ones = left()
    assert tidings("dead", "drop", "--id", ids[-1], "--id", ids[25], "--yes", "--json").json["dropped"] == 2
    assert left() == open_ones - 2


def test_an_interrupted_replay_can_go_on() -> None:
    die(*bad(60))
    operator = start("dead", "replay", "--rate", "50/s")
    while len(replayed()) < 5:
        time.sleep(0.02)
    operator.send_signal(signal.SIGINT)
    assert failed(finish(operator), 130)
    assert tidings("dead", "replay", "--rate", "0").code == 0
    assert sorted(replayed()) == list(range(60))
