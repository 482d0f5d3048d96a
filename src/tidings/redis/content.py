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
from tidings.redis.part import Entry

TYPE = "datacontenttype"
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
    """Where the values of an entry with these fields are, among its values. Ours are in this order; see `words`."""

    ours: bool
    keyed: bool = False
    others: tuple[str, ...] = ()


OURS = (b"ce_specversion", b"ce_id", b"ce_source", b"ce_type", b"ce_time", b"ce_datacontenttype")
KEY, DATA, JSON_BYTES, NOWHERE = b"ce_partitionkey", b"data", JSON.encode(), NO_SOURCE.encode()


def kind(names: tuple[bytes, ...]) -> Kind:
    """How to read entries that have these fields in this order."""
    keyed = names[6:7] == (KEY,)
    others = names[6 + keyed : -1]
    known = {*OURS, KEY, DATA}
    if names[:6] != OURS or names[-1] != DATA or len(set(names)) < len(names) or known & set(others):
        return Kind(False)
    if not all(name.startswith(b"ce_") for name in others):
        return Kind(False)
    try:
        return Kind(True, keyed, tuple(name[3:].decode() for name in others))
    except UnicodeDecodeError:
        return Kind(False)


class Reading:
    """Reads the entries of a topic, and remembers the kinds of them."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._kinds: dict[tuple[bytes, ...], Kind] = {}
        self._second = b""
        self._micros = 0

    def records(self, entries: Sequence[Entry], stream: bytes) -> list[Record]:
        """The records of entries: one that tells no id is named by its stream and its id there."""
        found: list[Record] = []
        names: Sequence[bytes] = ()
        ours, keyed, others = Kind(False)
        for id, flat in entries:
            if (mine := flat[::2]) != names:
                names, (ours, keyed, others) = mine, self._kind(tuple(mine))
            try:
                found.append(self._ours(flat[1::2], keyed, others) if ours else self._any(flat, stream, id))
            except (ValueError, DecodeError):
                found.append(self._any(flat, stream, id))
        return found

    def _kind(self, names: tuple[bytes, ...]) -> Kind:
        if (found := self._kinds.get(names)) is None:
            if len(self._kinds) >= KINDS:
                self._kinds.clear()
            found = self._kinds[names] = kind(names)
        return found

    def _ours(self, values: Sequence[bytes], keyed: bool, names: Sequence[str]) -> Record:
        """Once for each record that is consumed: no call and no loop more than it takes."""
        headers: dict[str, str] = {}
        if keyed:
            _, id, source, type, time, content, key, *others, data = values
        else:
            _, id, source, type, time, content, *others, data = values
            key = None
        if others:
            for name, value in zip(names, others):  # noqa: B905 - as many
                headers[name] = value.decode()
        if source != NOWHERE:
            headers["source"] = source.decode()
        if content != JSON_BYTES:
            headers[TYPE] = content.decode()
            if headers[TYPE].startswith(STRUCTURED):
                raise DecodeError("this is read otherwise")
        if time[:20] != self._second or len(time) != 27 or time[26] != 90:
            self._learn(time.decode())
        at = (self._micros + int(time[20:26])) / 1_000_000
        return Record(self._topic, data, None if key is None else key.decode(), type.decode(), id.decode(), at, headers)

    def _learn(self, time: str) -> None:
        """Seconds repeat: remember this one. Raises DecodeError for a time that is not written as `stamp` does it."""
        if stamp(seconds(time)) != time:
            raise DecodeError("this is read otherwise")
        self._second, self._micros = time[:20].encode(), int(seconds(time[:19] + "Z")) * 1_000_000

    def _any(self, flat: Sequence[bytes], stream: bytes, id: bytes) -> Record:
        fields = {flat[n].decode("utf-8", "replace"): flat[n + 1] for n in range(0, len(flat) - 1, 2)}
        value = fields.pop("data", None)
        texts = {name: text.decode("utf-8", "replace") for name, text in fields.items()}
        told = {name.removeprefix("ce_"): text for name, text in texts.items()}
        if value is None:
            value = msgspec.json.encode({name: text for name, text in texts.items() if name[:3] != "ce_"})
            told = {name[3:]: text for name, text in texts.items() if name[:3] == "ce_"}
        if TYPE in told:
            told[binding.CONTENT_TYPE] = told.pop(TYPE)
        return binding.record(self._topic, value, told, key=None, place=f"{stream.decode()}:{id.decode()}")
