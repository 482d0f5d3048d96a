"""What arrives: events out of a file, a sample that is varied by its key, or what a function makes.

A file has a JSON object a line, as `tidings tail --json` prints them: `type` and `data` are needed; `topic`, `key`,
`time` and `headers` are kept where they are there. Payloads are published as they are, checked against the classes that
the handlers take, so that a wrong line is found before anything has begun.
"""

from __future__ import annotations

import base64
import importlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tidings.app import App
from tidings.broker import Record
from tidings.clock import Clock
from tidings.codec import MISFITS, MSGPACK, Codec, explain
from tidings.errors import ConfigError, InvalidEvent
from tidings.message import NAME, TOPIC, Contract, Event, contract_of

SOURCE = "tidings-flood"
MOST = 20_000
"""So many different events are kept in memory; then they come again from the first."""
OF_THE_RUN = ("correlationid", "causationid")
"""Headers that name other events of the recording: here all ids are new."""


class Stream(NamedTuple):
    """The events that arrive, again from the first when all have. `times` are those of a recording, else none.

    `left_out` counts what handlers had published in answer to others: they will again.
    """

    records: Sequence[Record]
    times: Sequence[float] = ()
    left_out: int = 0


class Line(msgspec.Struct):
    """A line of a file; see `tidings tail --json`."""

    type: str
    data: Any = msgspec.UNSET
    data_base64: str | None = None
    topic: str | None = None
    key: str | None = None
    time: datetime | None = None
    headers: dict[str, str] = {}

    @property
    def body(self) -> bytes:
        """The payload, in the encoding that its headers name."""
        if self.data is msgspec.UNSET:
            return base64.b64decode(self.data_base64 or "", validate=True)
        packed = self.headers.get("datacontenttype") == MSGPACK
        return msgspec.msgpack.encode(self.data) if packed else msgspec.json.encode(self.data)


class Known:
    """The event classes of these apps: those that handlers take, and those beside the handlers that say a key."""

    def __init__(self, apps: Sequence[App]) -> None:
        self.apps = apps
        self.taken: dict[str, list[type[Event]]] = {}
        for app in apps:
            for handler in app.handlers.values():
                for source in handler.sources:
                    if not isinstance(source, str):
                        self.taken.setdefault(contract_of(source).name, []).append(source)
        self.keyed = {contract.name: contract for contract in _contracts(apps) if contract.key is not None}

    def record(self, line: Line) -> Record:
        """What is published for a line. Raises InvalidEvent, which names what does not fit."""
        if not NAME.fullmatch(line.type):
            raise InvalidEvent(f"the type {line.type!r} is not of the form noun.verb (a-z, 0-9, _ and -)")
        if line.topic is not None and not TOPIC.fullmatch(line.topic):
            raise InvalidEvent(f"the topic {line.topic!r} has other characters than a-z, 0-9, _, - and dots")
        if line.data is msgspec.UNSET and line.data_base64 is None:
            raise InvalidEvent(f"{line.type} has no `data`")
        self._check(line)
        contract = self._contract(line.type)
        headers = {name: value for name, value in line.headers.items() if name not in OF_THE_RUN}
        key = line.key if line.key is not None else _key(line.data, contract)
        return Record(line.topic or contract.topic, line.body, key, line.type, headers=headers or {"source": SOURCE})

    def _check(self, line: Line) -> None:
        module: Any = msgspec.msgpack if line.headers.get("datacontenttype") == MSGPACK else msgspec.json
        for cls in self.taken.get(line.type, ()):
            try:
                module.decode(line.body, type=cls)
            except MISFITS as error:
                raise InvalidEvent(f"{line.type}: {explain(error)}") from error

    def _contract(self, type: str) -> Contract:
        if type in self.keyed:
            return self.keyed[type]
        if type in self.taken:
            return contract_of(self.taken[type][0])
        return Contract(type, "1.0", None, type.rpartition(".")[0])

    def answered(self, line: Line) -> bool:
        """Whether a handler of these apps had published it in answer to another event."""
        return "causationid" in line.headers and line.headers.get("source") in {app.name for app in self.apps}

    def sample(self, type: str, text: str, *, keys: int, field: str | None) -> Stream:
        """One event of which there are `keys`, each with another value in its key field. Raises InvalidEvent."""
        try:
            data = msgspec.json.decode(text)
        except MISFITS as error:
            raise InvalidEvent(f"{type}: the payload is not JSON: {explain(error)}") from error
        field = field or self._contract(type).key
        if field is None:
            return Stream([self.record(Line(type, data))])
        if not isinstance(data, dict) or field not in data:
            raise InvalidEvent(f"{type}: the payload has no field {field!r}, by which it is to vary")
        samples = ({**data, field: _varied(data[field], number)} for number in range(keys))
        return Stream([self.record(Line(type, sample, key=str(sample[field]))) for sample in samples])

    def recording(self, path: Path, progress: Callable[[int], None]) -> Stream:
        """The events of a file, in the order of time where all have one. Raises ConfigError, which names the line."""
        lines: list[tuple[float, Record]] = []
        left_out = 0
        for number, text in enumerate(_lines(path), start=1):
            progress(1)
            if not text.strip():
                continue
            try:
                line = msgspec.json.decode(text, type=Line)
                if self.answered(line):
                    left_out += 1
                    continue
                lines.append((line.time.timestamp() if line.time else float("nan"), self.record(line)))
            except (*MISFITS, InvalidEvent) as error:
                raise ConfigError(f"{path}, line {number}: {explain(error)}.") from error
        if not lines:
            raise ConfigError(f"{path} has no events; write one a line, as `tidings tail --json` prints them.")
        if any(at != at for at, _ in lines):  # noqa: PLR0124 - NaN: no time
            return Stream([record for _, record in lines], (), left_out)
        lines.sort(key=lambda line: line[0])
        return Stream([record for _, record in lines], [at for at, _ in lines], left_out)

    def made(self, spec: str) -> Stream:
        """The first events that a function makes, and those again. Raises ConfigError."""
        made = _function(spec)()
        if not isinstance(made, Iterable):
            raise ConfigError(f"{spec} returns no events but {type(made).__name__}; let it yield them.")
        codec = Codec(SOURCE, Clock())
        records: list[Record] = []
        for event in itertools.islice(made, MOST):
            record = codec.encode(event)
            records.append(msgspec.structs.replace(record, id="", time=0.0))
        if not records:
            raise ConfigError(f"{spec} makes no events; let it yield some.")
        return Stream(records)


def _contracts(apps: Sequence[App]) -> Iterator[Contract]:
    """Those of the classes that stand in the modules of the handlers. Another module may mean another event."""
    modules = {handler.function.__module__ for app in apps for handler in app.handlers.values()}
    for name in sorted(modules):
        for value in vars(sys.modules.get(name, object)).values():
            if isinstance(value, type) and issubclass(value, Event) and "__contract__" in value.__dict__:
                yield contract_of(value)


def _key(data: Any, contract: Contract) -> str | None:
    if contract.key is None or not isinstance(data, dict) or data.get(contract.key) is None:
        return None
    return str(data[contract.key])


def _varied(value: Any, number: int) -> Any:
    """Text gets a number behind it, a number is counted up."""
    if isinstance(value, str):
        return f"{value}-{number}"
    if isinstance(value, int) and not isinstance(value, bool):
        return value + number
    raise InvalidEvent(f"a key such as {value!r} cannot be varied: give one of text or a whole number, or --keys 1")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error


def _function(spec: str) -> Callable[[], Any]:
    module_name, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{spec}: there is no module {error.name!r} in the working folder or on the path.") from error
    if not callable(function):
        raise ConfigError(f"{spec}: there is no function {name!r} in {module_name}.")
    return function  # type: ignore[no-any-return]
