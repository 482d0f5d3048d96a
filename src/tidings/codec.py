"""Messages to records and back: the one file that knows bytes.

A record carries the attributes of CloudEvents 1.0: `id`, `type`, `time` and `key` (partitionkey) as fields, the
others as headers: `source` (the app), `eventversion`, `datacontenttype` where it is not JSON, `correlationid` and
`causationid` where there is a cause, and `traceparent`/`tracestate` (the Distributed Tracing extension).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Literal

import msgspec

from tidings.broker import Record
from tidings.clock import Clock
from tidings.errors import BodyTooLarge, DecodeError, EventDefinitionError, InvalidEvent
from tidings.message import Contract, Message, contract_of

Encoding = Literal["json", "msgpack"]

BODY_LIMIT = 1 << 20
MSGPACK = "application/msgpack"
MODULES: Mapping[Encoding, Any] = {"json": msgspec.json, "msgpack": msgspec.msgpack}
TRACE = ("traceparent", "tracestate")
MISFITS = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError, NotImplementedError)


class Wire(msgspec.Struct, frozen=True):
    """How one message class goes over the wire, prepared once."""

    contract: Contract
    encode: Callable[[Any], bytes]
    check: Callable[[bytes], Any]
    headers: Mapping[str, str]
    key: Callable[[Any], Any]


class Codec:
    """Encodes what an app publishes and decodes what its handlers get.

    `limit` is in bytes of the encoded body. `trace` gives the headers of the span that is current, where tracing is on.
    """

    def __init__(
        self, source: str, clock: Clock, *, encoding: Encoding = "json", limit: int = BODY_LIMIT,
        trace: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:  # fmt: skip
        self._source = source
        self._clock = clock
        self._encoding: Encoding = encoding
        self._limit = limit
        self._trace = trace
        self._wires: dict[type, Wire] = {}
        self._names: dict[str, type] = {}

    def register(self, cls: type[Message]) -> Wire:
        """Prepare a message class. Raises EventDefinitionError where another one of this app has its name."""
        wire = self._wires.get(cls)
        if wire is not None:
            return wire
        contract = contract_of(cls)
        other = self._names.setdefault(contract.name, cls)
        if other is not cls:
            raise EventDefinitionError(
                f"{cls.__module__}.{cls.__qualname__} and {other.__module__}.{other.__qualname__} have the same name "
                f"{contract.name!r}; give one of them another."
            )
        headers = {"source": self._source, "eventversion": contract.version}
        if self._encoding == "msgpack":
            headers["datacontenttype"] = MSGPACK
        key = _no_key if contract.key is None else attrgetter(contract.key)
        wire = Wire(contract, MODULES[self._encoding].Encoder().encode, _decoder(self._encoding, cls), headers, key)
        self._wires[cls] = wire
        return wire

    def knows(self, name: str) -> bool:
        """Whether a message class of this name is registered."""
        return name in self._names

    def encode(
        self, message: Message, cause: Record | None = None, *, id: str | None = None, due: float | None = None
    ) -> Record:
        """The record of a message that `cause` led to. Raises InvalidEvent, which names the field that does not fit."""
        cls = type(message)
        wire = self._wires.get(cls) or self._register(cls)
        contract = wire.contract
        try:
            body = wire.encode(message)
            wire.check(body)  # msgspec checks nothing when a Struct is made
        except MISFITS as error:
            raise InvalidEvent(f"{contract.name} cannot be published: {explain(error)}") from error
        if len(body) > self._limit:
            raise BodyTooLarge(
                f"{contract.name} is {len(body)} bytes, over the limit of {self._limit}; "
                "keep the payload elsewhere and publish a reference, or raise `body_limit`."
            )
        key = wire.key(message)
        if key is not None and type(key) is not str:
            key = str(msgspec.to_builtins(key, str_keys=True))
        headers = wire.headers if cause is None and self._trace is None else self._headers(wire, cause)
        return Record(contract.topic, body, key, contract.name, id or self._clock.id(), self._clock.now(), headers, due)

    def _register(self, cls: Any) -> Wire:
        if not isinstance(cls, type) or not issubclass(cls, Message):
            raise InvalidEvent(f"{cls.__module__}.{cls.__qualname__} is not an Event: derive it from tidings.Event.")
        return self.register(cls)

    def _headers(self, wire: Wire, cause: Record | None) -> Mapping[str, str]:
        headers = dict(wire.headers)
        if cause is not None:
            headers["correlationid"] = cause.headers.get("correlationid", cause.id)
            headers["causationid"] = cause.id
            for name in TRACE:
                if name in cause.headers:
                    headers[name] = cause.headers[name]
        if self._trace is not None:
            headers.update(self._trace())
        return headers


class Reader:
    """Decodes the records of one handler's types."""

    def __init__(self, types: Mapping[str, type]) -> None:
        self.json = {name: _decoder("json", cls) for name, cls in types.items()}
        self._msgpack = {name: _decoder("msgpack", cls) for name, cls in types.items()}

    def knows(self, name: str) -> bool:
        """Whether the handler asked for this type."""
        return name in self.json

    def decode(self, record: Record) -> Any:
        """The message. Raises DecodeError, which names the field that does not fit."""
        decoders = self._msgpack if record.headers.get("datacontenttype") == MSGPACK else self.json
        try:
            return decoders[record.type](record.value)
        except MISFITS as error:
            raise DecodeError(f"{record.type} cannot be decoded: {explain(error)}") from error


@functools.lru_cache(512)
def _decoder(encoding: Encoding, cls: type) -> Callable[[bytes], Any]:
    """Kept, since a simulator starts the same apps thousands of times."""
    decode: Callable[[bytes], Any] = MODULES[encoding].Decoder(cls).decode
    return decode


def _no_key(message: Any) -> None:
    return None


def explain(error: BaseException) -> str:
    """What does not fit, with the field first where it is known."""
    text = str(error) or type(error).__name__
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    what, found, path = text.partition(" - at `$.")
    return f"field {path.rstrip('`')}: {what}" if found else text
