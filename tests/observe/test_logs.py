"""Log lines that machines read, whatever is logged."""

import io
import json
import logging
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.observe.waiting import until
from tidings import App, Event, Retry
from tidings.observe.logs import Json, Text, configure
from tidings.options import masked


class Told(Event, name="thing.told", key="key"):
    key: str
    secret: str = "the payload"


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("test").makeRecord("test", logging.INFO, "f.py", 1, message, args, None, extra=extra)


def line(message: str, *args: object, **extra: object) -> dict[str, Any]:
    raw = Json().format(record(message, *args, **extra))
    assert "\n" not in raw
    assert raw.isascii()
    parsed: dict[str, Any] = msgspec.json.decode(raw)  # stricter than the standard library's
    return parsed


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile, as JSON."""
    lines: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    root, keep = logging.getLogger(), Keep()
    keep.setFormatter(Json())
    level = root.level
    root.addHandler(keep)
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(keep)
    root.setLevel(level)


@given(st.text(), st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_every_line_is_json_whatever_is_logged(message: str, argument: str, extra: Any) -> None:
    line(message)
    line("%s", argument)
    line("x", event_id=extra)


def test_a_line_says_when_where_and_what() -> None:
    said = line("hello %s\x1b\n", "w\ud800rld", order=7, rows=[1, 2], nothing=None, ratio=float("inf"))

    assert said.pop("ts").endswith("Z")
    assert said == {
        "level": "INFO",
        "logger": "test",
        "message": "hello w?rld\x1b\n",
        "order": 7,
        "ratio": "inf",
    }


def test_arguments_that_do_not_fit_are_not_told_and_break_nothing() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert line("%d items", "secret")["message"] == "%d items (its arguments do not fit)"
    assert line("%s", Broken())["message"] == "%s (its arguments do not fit)"


def test_an_exception_is_one_field() -> None:
    try:
        raise ValueError("sqlite://me:secret@host")
    except ValueError:
        failed = record("it failed")
        failed.exc_info = sys.exc_info()

    said = json.loads(Json().format(failed))
    assert said["exception"].endswith("ValueError: sqlite://***@host")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("amqp://user:password@host:5672/v", "amqp://***@host:5672/v"),
        ("two redis://u:p@a and redis://:p@b", "two redis://***@a and redis://***@b"),
        ("token://abc@host", "token://***@host"),
        ("pg://u:p@ss:w/rd@host/db", "pg://***@host/db"),
        ("nats://h?token=abc&x=1", "nats://h?token=***&x=1"),
        ("kafka://h?SASL_PASSWORD=1&password=2", "kafka://h?SASL_PASSWORD=***&password=***"),
        ("http://host:80/path", "http://host:80/path"),
        ("me@example.com wrote", "me@example.com wrote"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, clean: str) -> None:
    assert masked(text) == clean
    assert line("%s", text, url=text)["message"] == line("x", url=text)["url"] == clean
    assert clean in Text().format(record(text))


async def test_lines_of_a_handler_name_the_event_wherever_the_handler_runs(logged: list[dict[str, Any]]) -> None:
    app = App("shop", "memory:")
    log = logging.getLogger("users.own")

    @app.on(Told)
    async def on_loop(event: Told) -> None:
        log.info("on loop")

    @app.on(Told)
    def in_thread(event: Told) -> None:
        log.info("in thread")

    @app.on(Told)
    def in_transaction(event: Told, db: sqlite3.Connection) -> None:
        log.info("in transaction")

    app.trace = lambda: {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    async with app.running():
        await app.publish(Told(key="k1"), id="id-1")
        await until(lambda: len([1 for line in logged if line["logger"] == "users.own"]) == 3)

    lines = {line["message"]: line for line in logged if line["logger"] == "users.own"}
    for message in ("on loop", "in thread", "in transaction"):
        said = lines[message]
        assert said["handler"] == f"shop.{message.replace(' ', '_')}"
        assert (said["event_id"], said["event_type"], said["event_key"]) == ("id-1", "thing.told", "k1")
        assert (said["attempt"], said["correlation_id"], said["trace_id"]) == (1, "id-1", "a" * 32)


async def test_what_tidings_says_of_a_failure_names_the_event_and_not_its_payload(logged: list[dict[str, Any]]) -> None:
    app = App("shop", "memory:")

    @app.on(Told, retry=Retry.NEVER)
    async def handle(event: Told) -> None:
        raise ValueError(f"cannot take {event.secret}")

    async with app.running():
        await app.publish(Told(key="k1"), id="id-1")
        await until(lambda: any("gave up" in line["message"] for line in logged))

    (said,) = [line for line in logged if "gave up" in line["message"]]
    assert (said["event_id"], said["handler"], said["level"]) == ("id-1", "shop.handle", "ERROR")
    assert "ValueError" in said["message"]
    assert "the payload" not in json.dumps(logged)


def test_text_is_for_terminals() -> None:
    said = Text().format(record("red \x1b[31m", handler="shop.handle", event_type="thing.told", event_id="1"))

    assert said.endswith("red \N{REPLACEMENT CHARACTER}[31m  [shop.handle thing.told 1]")


@pytest.mark.parametrize(("style", "kind"), [("json", Json), ("text", Text), (None, Json)])
def test_what_is_no_terminal_gets_json_unless_told_otherwise(
    style: Any, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    root.handlers[:] = []
    try:
        configure(style, "debug")
        (handler,) = root.handlers
        assert type(handler.formatter) is kind
        assert root.level == logging.DEBUG
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
