"""Records as entries of a stream and back: a field `ce_NAME` for each attribute of CloudEvents, and `data`.

Of a foreign entry the other fields are headers; where it has no `data`, they are the body, as JSON.

Entries of one kind have the same fields in the same order, so where each lies is found once for each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tidings import binding
from tidings.binding import JSON, NO_SOURCE, STRUCTURED, seconds, stamp
from tidings.broker import Record
from tidings.errors import DecodeError

TYPE = "datacontenttype"
MOST_FIELDS = 1000
KINDS = 1000


def words(record: Record) -> list[str | bytes]:
    """The fields and values of an entry, in turn."""
    headers = record.headers
    told: list[str | bytes] = [
        "ce_specversion", "1.0", "ce_id", record.id, "ce_source", headers.get("source", NO_SOURCE),
        "ce_type", record.type, "ce_time", stamp(record.time), "ce_datacontenttype", headers.get(TYPE, JSON),
    ]  # fmt: skip
    if record.key is not None:
        told += ("ce_partitionkey", record.key)
    for name, value in headers.items():
        if name not in ("source", TYPE):
            told += ("ce_" + name, value)
    told += ("data", record.value)
    return told


class Kind(NamedTuple):
    """Where the values of an entry with these fields lie. Without a `plain` one it is read field by field."""

    plain: bool
    id: int = 0
    type: int = 0
    time: int = 0
    key: int = 0
    source: int = 0
    content: int = 0
    data: int = 0
    others: tuple[tuple[str, int], ...] = ()


OWN = {b"ce_id": "id", b"ce_type": "type", b"ce_time": "time", b"ce_partitionkey": "key", b"ce_source": "source",
       b"ce_datacontenttype": "content", b"data": "data"}  # fmt: skip
NEEDED = {"id", "type", "time", "source", "content", "data"}


def kind(names: tuple[bytes, ...]) -> Kind:
    """How to read entries that have these fields in this order."""
    places = {OWN[name]: 2 * n + 1 for n, name in enumerate(names) if name in OWN}
    others = [(name, 2 * n + 1) for n, name in enumerate(names) if name not in OWN and name != b"ce_specversion"]
    try:
        extra = tuple((name.decode().removeprefix("ce_"), place) for name, place in others)
    except UnicodeDecodeError:
        return Kind(False)
    if not places.keys() >= NEEDED or not all(name.startswith(b"ce_") for name, _ in others):
        return Kind(False)
    if len(set(names)) < len(names) or len(names) > MOST_FIELDS:
        return Kind(False)
    return Kind(True, others=extra, **places)


class Reading:
    """Reads the entries of a topic, and remembers the kinds of them."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._kinds: dict[tuple[bytes, ...], Kind] = {}

    def record(self, flat: Sequence[bytes], stream: str, id: bytes) -> Record:
        """The record of an entry: one that tells no id is named by its stream and its id there."""
        names = tuple(flat[::2])
        found = self._kinds.get(names)
        if found is None:
            if len(self._kinds) >= KINDS:
                self._kinds.clear()
            found = self._kinds[names] = kind(names)
        if found.plain:
            try:
                return self._plain(flat, found)
            except (UnicodeDecodeError, DecodeError):
                pass
        return self._any(flat, f"{stream}:{id.decode()}")

    def _plain(self, flat: Sequence[bytes], at: Kind) -> Record:
        content = flat[at.content]
        source = flat[at.source]
        headers = {name: flat[n].decode() for name, n in at.others}
        if source != b"/":
            headers["source"] = source.decode()
        if content != b"application/json":
            headers[TYPE] = content.decode()
            if headers[TYPE].startswith(STRUCTURED) or not content:
                raise DecodeError("to be read field by field")
        key = flat[at.key].decode() if at.key else None
        time = seconds(flat[at.time].decode())
        return Record(self._topic, flat[at.data], key, flat[at.type].decode(), flat[at.id].decode(), time, headers)

    def _any(self, flat: Sequence[bytes], place: str) -> Record:
        fields = {flat[n].decode("utf-8", "replace"): flat[n + 1] for n in range(0, len(flat) - 1, 2)}
        value = fields.pop("data", None)
        texts = {name: text.decode("utf-8", "replace") for name, text in fields.items()}
        told = {name.removeprefix("ce_"): text for name, text in texts.items()}
        if value is None:
            value = msgspec.json.encode({name: text for name, text in texts.items() if name[:3] != "ce_"})
            told = {name[3:]: text for name, text in texts.items() if name[:3] == "ce_"}
        if TYPE in told:
            told[binding.CONTENT_TYPE] = told.pop(TYPE)
        return binding.record(self._topic, value, told, key=None, place=place)
