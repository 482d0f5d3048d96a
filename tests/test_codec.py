"""Messages to records and back, CloudEvents attributes, and what others wrote."""

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import DecodeError, Event, InvalidEvent, Record
from tidings.clock import Clock
from tidings.codec import MSGPACK, Codec, Reader

CONFORMANCE = Path(__file__).parents[2] / "shared" / "conformance"


class Colour(Enum):
    RED = "red"


class Rich(Event, name="rich.made", version="1.2", key="number"):
    number: int
    money: Decimal = Decimal("0.10")
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    tags: dict[str, list[int]] = {}  # noqa: RUF012 - msgspec makes a new one for each
    colour: Colour = Colour.RED
    ratio: float = 0.0
    maybe: str | None = None
    raw: bytes = b""


class Anything(Event, name="any.thing"):
    body: object


@pytest.fixture
def codec() -> Codec:
    return Codec("shop", Clock())


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_there_and_back(encoding: str) -> None:
    codec = Codec("shop", Clock(), encoding=encoding)  # type: ignore[arg-type]
    event = Rich(number=0, money=Decimal("2500315.63"), tags={"": [0]}, maybe="", raw=bytes(range(256)), ratio=-0.0)
    record = codec.encode(event)
    assert (record.topic, record.key, record.type) == ("rich", "0", "rich.made")
    assert record.headers["source"] == "shop"
    assert record.headers["eventversion"] == "1.2"
    assert record.headers.get("datacontenttype") == (MSGPACK if encoding == "msgpack" else None)
    assert uuid.UUID(record.id).version == 7
    assert Reader({"rich.made": Rich}).decode(record) == event


@given(st.text(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_number_comes_back_or_is_refused(text: str, number: int, ratio: float) -> None:
    codec = Codec("shop", Clock())
    event = Rich(number=number, maybe=text, ratio=ratio)
    try:
        record = codec.encode(event)
    except InvalidEvent:
        assert any("\ud800" <= char <= "\udfff" for char in text)
    else:
        assert Reader({"rich.made": Rich}).decode(record) == event


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "text", object()])
def test_what_does_not_come_back_is_refused_when_it_is_published(codec: Codec, value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"rich\.made"):
        codec.encode(Rich(number=1, ratio=value))  # type: ignore[arg-type]


def test_ids_sort_by_time_and_never_repeat() -> None:
    clock = Clock()
    ids = [clock.id() for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert [id[:13] for id in ids] == sorted(id[:13] for id in ids)


def test_the_cause_and_its_trace_travel_on(codec: Codec) -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    first = Record("t", b"{}", None, "t.t", "first", 0.0, trace)
    second = codec.encode(Rich(number=1), first)
    third = codec.encode(Rich(number=2), second)
    assert (second.headers["correlationid"], second.headers["causationid"]) == ("first", "first")
    assert (third.headers["correlationid"], third.headers["causationid"]) == ("first", second.id)
    assert third.headers["traceparent"] == trace["traceparent"]
    assert third.headers["tracestate"] == "a=b"


def _read(reader: Reader, body: bytes) -> str:
    """What is wrong with it; nothing for what is read."""
    try:
        reader.decode(Record("any", body, type="any.thing"))
    except DecodeError as error:
        return str(error)
    return ""


@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason="the conformance data of JSONTestSuite is not beside the project")
def test_what_others_call_json_is_read_and_what_is_none_is_refused() -> None:
    reader = Reader({"any.thing": Anything})
    accepted, refused = 0, 0
    for path in sorted((CONFORMANCE / "jsontestsuite" / "test_parsing").iterdir()):
        body = b'{"body":' + path.read_bytes() + b"}"
        verdict = _read(reader, body)
        assert path.name[0] in ("ni" if verdict else "yi"), (path.name, verdict)
        assert verdict == "" or verdict.startswith("any.thing cannot be decoded")
        refused += bool(verdict)
        accepted += not verdict
    assert accepted >= 95
    assert refused >= 180


@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason="the CloudEvents schema is not beside the project")
def test_an_event_in_structured_form_is_a_cloudevent(codec: Codec) -> None:
    schema = pytest.importorskip("jsonschema_rs")
    validator = schema.validator_for(json.loads((CONFORMANCE / "cloudevents" / "spec-cloudevents.json").read_text()))
    record = codec.encode(Rich(number=1), Record("t", b"{}", None, "t.t", "cause"))
    event = {
        "specversion": "1.0",
        "id": record.id,
        "type": record.type,
        "time": datetime.fromtimestamp(record.time, UTC).isoformat(),
        "partitionkey": record.key,
        "data": json.loads(record.value),
        **record.headers,
    }
    validator.validate(event)
    assert all(name.isascii() and name.isalnum() and name.islower() for name in event)
