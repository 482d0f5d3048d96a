"""`tidings flood` with real worker processes."""

import json
import os
import signal
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli import terminal
from tests.cli.terminal import Result, failed, tidings

PROGRAM = """
import asyncio
import os
import sqlite3
import time
from pathlib import Path

from tidings import App, Event, Retry

class Placed(Event, name="order.placed", key="order_id"):
    order_id: str
    how: str = ""

class Paid(Event, name="payment.taken", key="order_id"):
    order_id: str

app = App("shop", "sqlite:real.db", store="sqlite:real.db")

@app.on(Placed, retry=Retry(at_once=0, times=1, first=0.01))
async def pay(order: Placed) -> Paid:
    if order.how == "fail":
        raise ValueError(order.order_id)
    if order.how == "stall" and order.order_id == "o-0" and not Path("stalled").exists():
        Path("stalled").touch()
        time.sleep(0.5)
    if order.how == "die" and not Path("died").exists():
        Path("died").touch()
        os._exit(9)
    return Paid(order_id=order.order_id)

@app.on(Paid)
def book(payments: list[Paid], db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS booked (id TEXT)")
    db.executemany("INSERT INTO booked VALUES (?)", [(paid.order_id,) for paid in payments])

@app.on(Paid)
async def hang(paid: Paid) -> None:
    if os.environ.get("HANG"):
        await asyncio.Event().wait()

quiet = App("quiet")
wrong = App("wrong")

@wrong.on(Placed)
async def impossible(order: Placed, what: Path) -> None: ...
"""


@pytest.fixture(autouse=True)
def program(request: pytest.FixtureRequest) -> str:
    """The program, in a module that no other test has imported."""
    name = f"flooded_{abs(hash(request.node.name))}"
    Path(f"{name}.py").write_text(PROGRAM)
    return name


def flood(program: str, *args: str, how: str = "", rate: int = 200) -> Result:
    sample = json.dumps({"order_id": "o", "how": how})
    return tidings(
        "flood", f"{program}:app", "--event", "order.placed", sample, "--rate", str(rate), "--seconds", "1", *args
    )


def stage(told: Any, name: str) -> Any:
    return next(each for each in told["handlers"] if each["name"] == name)


def test_every_event_is_kept_and_settled(program: str) -> None:
    result = flood(program, "--json", "--workers", "2")
    told = result.json

    assert result.code == 0, result.err
    assert (told["events"], told["lost"], told["dead"], told["left"], told["refused"]) == (200, 0, 0, 0, {})
    assert [each["name"] for each in told["handlers"]] == ["shop.pay", "shop.book", "shop.hang"]
    for each in [told["publish"], *told["handlers"], told["whole"]]:
        latency = each["latency"]
        assert each["events"] == 200
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
    assert told["whole"]["latency"]["max"] >= stage(told, "shop.book")["latency"]["max"]
    assert set(told["curves"]) == {"end to end", "publish", "shop.pay", "shop.book", "shop.hang"}
    assert not Path("real.db").exists(), "a flood keeps away from the app's own database"


def test_latency_begins_when_an_event_was_due_to_arrive(program: str) -> None:
    """The worker stands still for half a second: the hundred events that were due meanwhile have waited for it."""
    told = flood(program, "--json", how="stall").json
    pay = stage(told, "shop.pay")["latency"]

    assert pay["max"] >= 0.5
    assert pay["p90"] > 0.25, "not one event in 200 is slow but those of half a second in one"


def test_the_report_is_one_file_and_well_formed(program: str) -> None:
    result = flood(program, "--report", "report.html", rate=100)
    assert result.code == 0, result.err
    assert "All 100 events were kept and settled." in result.out
    assert "shop.book" in result.out
    text = Path("report.html").read_text()

    seen: list[tuple[str, dict[str, str | None]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    Tags().feed(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in seen}
    assert not any(name in attrs for _, attrs in seen for name in ("src", "href"))
    assert "prefers-color-scheme: dark" in text
    drawing = text[text.index("<svg") : text.index("</svg>") + 6]
    assert len(ElementTree.fromstring(drawing).findall("{http://www.w3.org/2000/svg}g")) == 5


def test_what_was_recorded_is_replayed_at_another_speed(program: str) -> None:
    flood(program, "--broker", "sqlite:told.db", rate=100)
    recorded = terminal.run("tail", "--no-follow", "--json", "--broker", "sqlite:told.db")
    Path("recorded.jsonl").write_text(recorded.out)
    assert len(recorded.lines) == 200, "100 orders and 100 payments"

    result = tidings(
        "flood", f"{program}:app", "--events", "recorded.jsonl", "--arrival", "replay", "--speed", "2", "--json"
    )
    told = result.json
    assert result.code == 0, result.err
    assert "Left out 100 events" in result.err
    assert told["events"] == 100
    assert told["seconds"] == pytest.approx(0.495, abs=0.05)
    assert stage(told, "shop.book")["events"] == 100


def test_the_report_may_be_the_charts_alone(program: str) -> None:
    flood(program, "--report", "report.svg", rate=20)
    assert ElementTree.fromstring(Path("report.svg").read_text()).tag == "{http://www.w3.org/2000/svg}svg"


def test_dead_letters_are_a_failure(program: str) -> None:
    result = flood(program, "--json", how="fail", rate=20)
    told = result.json
    pay = stage(told, "shop.pay")

    assert result.code == 1
    assert (told["dead"], told["lost"], pay["dead"], pay["retried"]) == (20, 0, {"ValueError": 20}, 20)


def test_the_cause_of_dead_letters_is_told(program: str) -> None:
    result = flood(program, how="fail", rate=5)
    assert "Dead in shop.pay: 5 x ValueError: o-0" in result.out
    assert "Not well: 5 dead letters." in result.out


def test_the_shop_brings_its_orders() -> None:
    result = tidings("flood", "examples.shop:apps", "--rate", "40", "--seconds", "1", "--json")
    told = result.json
    assert result.code == 0, result.err
    assert told["whole"]["events"] == 40
    assert stage(told, "payment.settle")["events"] >= 40
    assert stage(told, "mail.write")["latency"]["p50"] > stage(told, "payment.settle")["latency"]["p50"]


def test_a_function_may_make_what_arrives(program: str) -> None:
    maker = f"""
import {program} as shop
def orders():
    for number in range(7):
        yield shop.Placed(order_id=f"made-{{number}}")
"""
    Path(f"{program}_maker.py").write_text(maker)
    result = tidings(
        "flood", f"{program}:app", "--events", f"{program}_maker:orders", "--rate", "20", "--seconds", "1", "--json"
    )
    assert result.code == 0, result.err
    assert stage(result.json, "shop.book")["events"] == 20, "seven, again and again"


def test_an_interrupt_ends_it_and_its_workers(program: str) -> None:
    sample = json.dumps({"order_id": "o"})
    process = terminal.start("flood", f"{program}:app", "--event", "order.placed", sample, "--rate", "20")
    working = f"/proc/{process.pid}/task/{process.pid}/children"
    for _ in range(1000):
        if Path(working).read_text().split():
            break
        time.sleep(0.01)
    (worker,) = Path(working).read_text().split()
    process.send_signal(signal.SIGINT)
    result = terminal.finish(process)
    assert result.code == 130
    assert "Traceback" not in result.err
    assert not Path(f"/proc/{worker}").exists()


def test_a_worker_that_dies_is_a_failure_and_is_followed_by_another(program: str) -> None:
    result = flood(program, "--json", how="die", rate=50)
    told = result.json

    assert result.code == 1
    assert (told["deaths"], told["left"], told["dead"]) == ({"exit code 9": 1}, 0, 0)
    assert stage(told, "shop.book")["events"] == 50


def test_what_does_not_end_is_given_up(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HANG", "1")
    result = flood(program, "--patience", "0.5", rate=20)

    assert result.code == 1
    assert "20 left waiting" in result.out


def test_handlers_that_hear_nothing_are_told(program: str) -> None:
    result = tidings(
        "flood", f"{program}:app", "--event", "other.told", "{}", "--rate", "20", "--seconds", "0.5", "--json"
    )
    assert result.code == 0, result.err
    assert stage(result.json, "shop.pay")["latency"] is None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nosuch:app"], ["nosuch"]),
        (["{program}:nosuch"], ["nosuch"]),
        (["{program}:app"], ["--event"]),
        (["{program}:app", "--event", "order.placed", "{"], ["JSON"]),
        (["{program}:app", "--event", "order.placed", '{"order_id": 3}'], ["order_id"]),
        (["{program}:app", "--event", "order.placed", '{"order_id": "a"}', "--rate", "0"], ["--rate"]),
        (
            ["{program}:app", "--event", "order.placed", '{"order_id": "a"}', "--rate", "0.01", "--arrival", "ramp"],
            ["0 events"],
        ),
        (["{program}:app", "--event", "order.placed", '{"order_id": "a"}', "--rate", "1e9"], ["5,000,000"]),
        (["{program}:app", "--event", "order.placed", '{"order_id": "a"}', "--arrival", "replay"], ["--events"]),
        (["{program}:app", "--event", "a.b", "{}", "--events", "x.jsonl"], ["not both"]),
        (["{program}:app", "--event", "order.placed", '{"order_id": "a"}', "--speed", "2"], ["--arrival replay"]),
        (["{program}:app", "--event", "order.placed", '{"order_id": "a"}', "--rate", "inf"], ["--rate"]),
        (["{program}:app", "--event", "order.placed", '{"order_id": "a"}', "--seconds", "nan"], ["--seconds"]),
        (["{program}:app", "--events", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["{program}:app", "--events", "broken.jsonl"], ["broken.jsonl, line 2"]),
        (["{program}:app", "--event", "a.b", "{}", "--broker", "sqlite:no/such/folder.db"], ["folder"]),
        (["{program}:app", "--event", "a.b", "{}", "--broker", "nats://10.1.2.3"], ["--remote-is-mine"]),
        (["{program}:app", "--event", "a.b", "{}", "--broker", "memory:"], ["memory"]),
        (["{program}:app", "--event", "a.b", "{}", "--report", "no/such/report.html"], ["no/such"]),
        (["{program}:wrong", "--event", "a.b", "{}"], ["impossible", "what"]),
    ],
)
def test_bad_input_is_one_sentence(program: str, args: list[str], words: list[str]) -> None:
    Path("broken.jsonl").write_text('{"type": "order.placed", "data": {"order_id": "a"}}\n{"type": 3}\n')
    result = tidings("flood", *(arg.replace("{program}", program) for arg in args))
    assert failed(result, 2, *words), result
