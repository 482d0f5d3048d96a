"""What a record carries, for people and programs outside the apps that know its class."""

from __future__ import annotations

import base64
from typing import Any

import click
import msgspec

from tidings.broker import Record
from tidings.cli.moment import iso
from tidings.cli.output import plain, to_json
from tidings.codec import MISFITS, MSGPACK
from tidings.errors import DecodeError

PLACEHOLDER = "\N{REPLACEMENT CHARACTER}"


def decoded(record: Record) -> Any:
    """The payload as plain data. Raises DecodeError where it is not what its content type says."""
    packed = record.headers.get("datacontenttype") == MSGPACK
    try:
        data = (msgspec.msgpack if packed else msgspec.json).decode(record.value)
        return msgspec.to_builtins(data, str_keys=True)
    except MISFITS as error:
        raise DecodeError(f"the payload of {record.id} is not {'msgpack' if packed else 'JSON'}: {error}") from error


def encoded(data: Any, record: Record) -> bytes:
    """Data in the encoding of `record`."""
    if record.headers.get("datacontenttype") == MSGPACK:
        return msgspec.msgpack.encode(data)
    return msgspec.json.encode(data)


def as_mapping(record: Record) -> dict[str, Any]:
    """A record for programs, named as in CloudEvents: `data`, or `data_base64` where it cannot be decoded."""
    try:
        body: dict[str, Any] = {"data": decoded(record)}
    except DecodeError:
        body = {"data_base64": base64.b64encode(record.value).decode()}
    return {
        "topic": record.topic, "type": record.type, "id": record.id, "key": record.key, "time": iso(record.time),
        **body, "headers": dict(record.headers),
    }  # fmt: skip


def in_a_line(record: Record) -> str:
    """The payload in one line, without what a terminal would obey."""
    try:
        return to_json(decoded(record))
    except DecodeError:
        return plain(record.value.decode("utf-8", "replace"))


def pretty(record: Record) -> str:
    """The payload over several lines, without what a terminal would obey."""
    try:
        text = msgspec.json.format(msgspec.json.encode(decoded(record)), indent=2).decode()
    except DecodeError:
        text = record.value.decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char == "\n" else PLACEHOLDER for char in text)


def shortened(text: str, width: int) -> str:
    """Text that fits into `width` columns."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "\N{HORIZONTAL ELLIPSIS}"


def changed(data: Any, change: str) -> Any:
    """Data with one field changed, by `path=value`. Raises click.UsageError where the path leads nowhere."""
    path, equals, text = change.partition("=")
    if not equals or not path:
        raise click.UsageError(f"--set {change!r} is not of the form PATH=VALUE.")
    try:
        value = msgspec.json.decode(text)
    except MISFITS:
        value = text
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[_key(place, name, change)]
    place[_key(place, last, change, new=True)] = value
    return data


def _key(place: Any, name: str, change: str, *, new: bool = False) -> str | int:
    if isinstance(place, dict) and (new or name in place):
        return name
    if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
        return int(name)
    raise click.UsageError(f"--set {change!r}: there is no {name!r} in {shortened(to_json(place), 100)}.")
