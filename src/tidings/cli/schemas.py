"""The event classes that an app's code knows, to check payloads against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from tidings.app import App
from tidings.cli.target import load_apps
from tidings.codec import MISFITS, explain
from tidings.errors import InvalidEvent
from tidings.message import Event, contract_of

_Type = type[Event]


class Schemas:
    """The event classes of the apps that `module:app` names, and of what their modules import."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.apps = load_apps(spec)

    def find(self, type: str) -> tuple[_Type, App]:
        """The class of this name, and the app that handles it or else the first. Raises click.UsageError."""
        for app in self.apps:
            sources = [source for handler in app.handlers.values() for source in handler.sources]
            for source in sources:
                if not isinstance(source, str) and contract_of(source).name == type:
                    return source, app
        named = [cls for cls in _events(Event) if contract_of(cls).name == type]
        named = [cls for cls in named if cls.__module__ == self.spec.partition(":")[0]] or named
        if len(named) != 1:
            raise click.UsageError(f"{self.spec} {_which(type, named)}.")
        return named[0], self.apps[0]


def _which(type: str, named: Sequence[_Type]) -> str:
    if named:
        return f"knows several events {type!r}: {', '.join(f'{cls.__module__}.{cls.__qualname__}' for cls in named)}"
    names = ", ".join(sorted({contract_of(cls).name for cls in _events(Event)}))
    return f"knows no event {type!r}; it knows: {names or 'none'}"


def check(event: _Type, body: bytes) -> Any:
    """The event that a JSON payload is. Raises InvalidEvent, which names the field that does not fit."""
    try:
        return msgspec.json.decode(body, type=event)
    except MISFITS as error:
        raise InvalidEvent(f"{contract_of(event).name}: {explain(error)}") from error


def _events(cls: _Type) -> Iterator[_Type]:
    for child in cls.__subclasses__():
        if "__contract__" in child.__dict__:
            yield child
        yield from _events(child)
