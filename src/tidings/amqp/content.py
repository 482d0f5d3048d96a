"""Records as messages of AMQP 0-9-1 and back: CloudEvents on headers, with the prefix `cloudEvents:`.

The properties are `content_type`, `delivery_mode` 2, `message_id` (the id) and `timestamp`. What other programs
publish without such headers comes as a record whose id, type, time and headers are those of its properties.
"""

from __future__ import annotations

import contextlib
import struct
from functools import lru_cache
from struct import Struct
from typing import Any

import pika.exceptions
import pika.spec

from tidings import binding
from tidings.broker import Record
from tidings.errors import InvalidEvent

PREFIX = "cloudEvents:"
OTHER_PREFIX = "cloudEvents_"
CUT = len(PREFIX)
LONGEST = 255
SIZE = Struct(">I")
STAMP = Struct(">Q")
FLAGS = Struct(">H")
CONTENT_TYPE, ENCODING, HEADERS = 0x8000, 0x4000, 0x2000
PERSISTENT, MESSAGE_ID, TIMESTAMP = 0x1000, 0x0080, 0x0040
WRITTEN = FLAGS.pack(CONTENT_TYPE | HEADERS | PERSISTENT | MESSAGE_ID | TIMESTAMP)
WITHOUT_ID = FLAGS.pack(CONTENT_TYPE | HEADERS | PERSISTENT | TIMESTAMP)
TEXT, LONG = ord("S"), ord("l")
COUNTS = ("x-delivery-count", "x-acquired-count")
"""What a quorum queue writes on what it delivers again."""


def properties(record: Record) -> bytes:
    """The properties of a message. Raises InvalidEvent for what AMQP cannot carry."""
    told = binding.attributes(record)
    kind = short(told.pop(binding.CONTENT_TYPE), "content type")
    table = b"".join([_name(name) + SIZE.pack(len(value := text.encode())) + value for name, text in told.items()])
    id = record.id.encode()
    flags, tail = (WRITTEN, bytes((len(id),)) + id) if len(id) <= LONGEST else (WITHOUT_ID, b"")
    stamp = STAMP.pack(max(0, int(record.time)))
    return b"".join((flags, kind, SIZE.pack(len(table)), table, b"\x02", tail, stamp))


def short(text: str, what: str) -> bytes:
    """A short string. Raises InvalidEvent for a longer one."""
    encoded = text.encode()
    if len(encoded) > LONGEST:
        raise InvalidEvent(f"RabbitMQ cannot carry this {what}: it has {len(encoded)} bytes, and at most {LONGEST} fit")
    return bytes((len(encoded),)) + encoded


@lru_cache(256)
def _name(name: str) -> bytes:
    return short(PREFIX + name, f"header, {name[:40]!r}") + b"S"


def record(topic: str, header: bytes, body: bytes, place: str) -> Record:
    """The record of a message. `place` is the id of one that has none."""
    flags = FLAGS.unpack_from(header)[0]
    if flags & (CONTENT_TYPE | ENCODING | HEADERS) == CONTENT_TYPE | HEADERS:
        at = 3 + header[2]
        told = _attributes(header, at + 4, at + 4 + SIZE.unpack_from(header, at)[0])
        if told is not None and "id" in told:
            told[binding.CONTENT_TYPE] = header[3:at].decode("utf-8", "replace")
            return binding.record(topic, body, told, key=None, place=place)
    return binding.record(topic, body, _foreign(header), key=None, place=place)


def _attributes(header: bytes, at: int, end: int) -> dict[str, str] | None:
    """The attributes of a message as we write it; None for one that holds anything else than text."""
    told: dict[str, str] = {}
    try:
        while at < end:
            value = at + 1 + header[at]
            if header[value] != TEXT:
                if header[value] != LONG or header[at + 1 : value].decode() not in COUNTS:
                    return None
                at = value + 9
                continue
            following = value + 5 + SIZE.unpack_from(header, value + 1)[0]
            told[_attribute(header[at + 1 : value])] = header[value + 5 : following].decode()
            at = following
    except UnicodeDecodeError:
        return None
    return told


@lru_cache(1024)
def _attribute(name: bytes) -> str:
    told = name.decode()
    return told[CUT:] if told.startswith(PREFIX) else told.lower()


def _foreign(header: bytes) -> dict[str, str]:
    """What a message of another program tells by its properties, and by headers of any type."""
    found: Any = pika.spec.BasicProperties()  # type: ignore[no-untyped-call] # a class without annotations
    with contextlib.suppress(pika.exceptions.AMQPError, struct.error, ValueError, IndexError):
        found.decode(header)
    told: dict[str, str] = {}
    for name, value in (found.headers or {}).items():
        text = _text(value)
        if name.startswith((PREFIX, OTHER_PREFIX)):
            told[name[CUT:].lower()] = text
        elif name not in COUNTS:
            told.setdefault(name.lower(), text)
    for name, value in _named(found).items():
        if value is not None:
            told.setdefault(name, value)
    return told


def _named(found: Any) -> dict[str, str | None]:
    return {
        binding.CONTENT_TYPE: found.content_type,
        "contentencoding": found.content_encoding,
        "id": found.message_id,
        "type": found.type,
        "time": None if found.timestamp is None else binding.stamp(float(found.timestamp)),
        "correlationid": found.correlation_id,
        "source": found.app_id,
    }


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
