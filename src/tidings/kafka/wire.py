"""Records on Kafka: CloudEvents in binary mode, `ce_` before each attribute; the key is Kafka's own key.

The attributes that repeat from record to record stand together and in one order, so that a reader which has seen them
once looks them up. Whatever stands otherwise, or is foreign, takes the way through `binding.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from confluent_kafka import KafkaError

from tidings import binding
from tidings.broker import Record
from tidings.errors import DecodeError, InvalidEvent

PREFIX = "ce_"
ID, TIME = "ce_id", "ce_time"
SPEC = ("ce_specversion", b"1.0")
STEADY = ["ce_specversion", "ce_type", "ce_source", binding.CONTENT_TYPE]
"""What follows the id and the time in what we write, then the attributes that repeat, then those that do not."""
FLEETING = frozenset(["correlationid", "causationid", "traceparent", "tracestate"])
LAST = {"ce_" + name for name in FLEETING}
Z = ord("Z")
MOST = 10_000
"""How many combinations are remembered."""
APART = {"source", "datacontenttype"}

Header = tuple[str, bytes]
Written = list[tuple[str, str | bytes | None]]
Known = tuple[str, tuple[tuple[str, str], ...]]


class Received(Protocol):
    """A consumed message: the client's own type says that everything may be missing."""

    def __len__(self) -> int: ...

    def topic(self) -> str: ...  # noqa: D102

    def partition(self) -> int: ...  # noqa: D102

    def offset(self) -> int: ...  # noqa: D102

    def key(self) -> bytes | None: ...  # noqa: D102

    def value(self) -> bytes | None: ...  # noqa: D102

    def headers(self) -> list[Header] | None: ...  # noqa: D102

    def timestamp(self) -> tuple[int, int]: ...  # noqa: D102

    def error(self) -> KafkaError | None: ...  # noqa: D102


class Shape(NamedTuple):
    """What the steady headers say."""

    steady: list[Header]
    type: str
    headers: Mapping[str, str]


class Wire:
    """Reads and writes headers, and remembers what repeats."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[Header, ...], Shape] = {}
        self._steady: dict[Known, list[Header]] = {}
        self._type: str | None = None
        self._told: dict[str, str] = {}
        self._written: list[Header] = []
        self._whole: dict[bytes, int] = {}
        self._last = Shape([], "", {})

    # -- writing

    def headers(self, record: Record) -> Written:
        """The headers of a record. Raises InvalidEvent for what Kafka cannot carry."""
        told = record.headers
        try:
            if record.type != self._type or told != self._told:
                self._write(record.type, told)
            return [(ID, record.id.encode()), (TIME, binding.stamp(record.time).encode()), *self._written]
        except UnicodeEncodeError as error:
            raise InvalidEvent(f"An attribute of record {record.id!r} is no text: {error}. It was not sent.") from error

    def _write(self, type: str, told: Mapping[str, str]) -> None:
        """The headers of these attributes: mostly those of the record before, else often those of one before that."""
        known = (type, tuple(told.items()))
        found = self._steady.get(known)
        if found is None:
            found = written(type, told)
            if FLEETING.isdisjoint(told):
                if len(self._steady) >= MOST:
                    self._steady.clear()
                self._steady[known] = found
        self._type, self._told, self._written = type, dict(told), found

    # -- reading

    def record(self, message: Received, topic: str) -> Record:
        """The record of a message. Nothing is refused here: what is foreign comes as it is."""
        headers = message.headers()
        if headers is None or len(headers) < 6:
            return self._foreign(message, topic)
        (first, id), (second, time) = headers[:2]
        if first != ID or second != TIME:
            return self._foreign(message, topic)
        try:
            shape = self._last
            if headers[2:] == shape.steady:
                told = shape.headers
            else:
                shape, told = self._shape(headers)
            whole = self._whole.get(time[:19])
            key = message.key()
            return Record(
                topic,
                message.value() or b"",
                None if key is None else key.decode(),
                shape.type,
                id.decode(),
                self._seconds(time) if whole is None or time[26:] != b"Z" else (whole + int(time[20:26])) / 1_000_000,
                told,
            )
        except (ValueError, TypeError, AttributeError, DecodeError):
            return self._foreign(message, topic)

    def _seconds(self, told: bytes) -> float:
        """See binding.seconds: most are written as we write them, and many in the same second."""
        if len(told) == 27 and told[26] == Z:
            if len(self._whole) >= MOST:
                self._whole.clear()
            second = told[:19]
            self._whole[second] = round(binding.seconds(second.decode() + "Z") * 1_000_000)
        return binding.seconds(told.decode())

    def _shape(self, headers: list[Header]) -> tuple[Shape, Mapping[str, str]]:
        """What the headers behind the first two say; mostly, the same as those of the message before."""
        end = len(headers)
        while headers[end - 1][0] in LAST:
            end -= 1
        steady = tuple(headers[2:end])
        shape = self._last = self._shapes.get(steady) or self._learnt(steady)
        if end == len(headers):
            return shape, shape.headers
        return shape, {**shape.headers, **{name[len(PREFIX) :]: value.decode() for name, value in headers[end:]}}

    def _learnt(self, steady: tuple[Header, ...]) -> Shape:
        """Raises DecodeError for what is not written as we write it."""
        told = plain({name: text(value) for name, value in steady})
        content = told.get(binding.CONTENT_TYPE, binding.STRUCTURED)
        if [name for name, _ in steady[:4]] != STEADY or content.startswith(binding.STRUCTURED):
            raise DecodeError("it is not of our own")
        known = binding.record("", b"", told, key=None, place="")
        if len(self._shapes) >= MOST:
            self._shapes.clear()
        return self._shapes.setdefault(steady, Shape(list(steady), known.type, known.headers))

    def _foreign(self, message: Received, topic: str) -> Record:
        told = plain({name: text(value) for name, value in message.headers() or ()})
        key = message.key()
        place = f"{topic}-{message.partition()}-{message.offset()}"
        value = message.value() or b""
        record = binding.record(topic, value, told, key=None if key is None else text(key), place=place)
        kind, milliseconds = message.timestamp()
        if "time" in told or not kind:
            return record
        return Record(topic, record.value, record.key, record.type, record.id, milliseconds / 1000, record.headers)


def written(type: str, told: Mapping[str, str]) -> list[Header]:
    """The headers of these attributes, in our order."""
    source, content = told.get("source", binding.NO_SOURCE), told.get("datacontenttype", binding.JSON)
    headers = [
        SPEC,
        ("ce_type", type.encode()),
        ("ce_source", source.encode()),
        (binding.CONTENT_TYPE, content.encode()),
    ]
    others = [name for name in told if name not in APART]
    return headers + [(named(name), told[name].encode()) for name in sorted(others, key=FLEETING.__contains__)]


def named(name: str) -> str:
    """The header of an attribute."""
    if "\0" in name:
        raise InvalidEvent(f"Kafka cannot carry an attribute of the name {name!r}: it contains a NUL.")
    return PREFIX + name


def text(value: bytes | None) -> str:
    """A foreign value as text: what is no UTF-8 is shown as escapes."""
    return "" if value is None else value.decode(errors="backslashreplace")


def plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Attributes without their prefix; other headers keep their names."""
    return {name.lower().removeprefix(PREFIX): value for name, value in headers.items()}
