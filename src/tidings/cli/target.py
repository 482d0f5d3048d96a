"""What commands work on, the same words in each of them.

`load_apps("module:app")` and `load_all([...])` import apps; `connected(broker)` opens a broker and its store without
any app, `alone(broker)` a broker without a store. `@broker_option` passes `broker: str | None`, so do `@store_option`
and `@monitor_option`, `@json_option` passes `as_json: bool`.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import msgspec

from tidings.app import App
from tidings.broker import Broker
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import Connection, connect
from tidings.errors import ConfigError

broker_option = click.option(
    "--broker",
    metavar="URL",
    help="Where events are kept, such as sqlite:tidings.db (the default, or what tidings.toml or TIDINGS_BROKER says).",
)
store_option = click.option(
    "--store", metavar="URL", help="Beside a server: where Tables, inbox and outbox are, such as sqlite:shop.db."
)
monitor_option = click.option(
    "--monitor",
    metavar="URL",
    help="Where a server tells its operators more: http://HOST:8222 of NATS, http://HOST:15672 of RabbitMQ.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def load_all(specs: Iterable[str]) -> list[App]:
    """The apps of several specs, each once, in order. Raises ConfigError, also where two have the same name."""
    apps = list(dict.fromkeys(app for spec in specs for app in load_apps(spec)))
    names = [app.name for app in apps]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"There are two apps called {name!r}; what handles an event is known by <app>.<handler>.")
    return apps


def load_apps(spec: str) -> list[App]:
    """The apps that `module:name` names: an App or a list of them; without a name, `app`.

    The working folder is on the path. Raises ConfigError for what is not there; what the module itself raises while it
    is imported comes through.
    """
    module_name, _, name = spec.partition(":")
    name = name or "app"
    if not all(part.isidentifier() for part in module_name.split(".")) or module_name.endswith(".py"):
        raise ConfigError(
            f"{spec!r} does not name an app. Write module:app, with dots and without .py: shop.orders:app"
        )
    module = _import(module_name, spec)
    value = module
    for part in name.split("."):
        value = getattr(value, part, None)  # type: ignore[assignment]
    apps = _apps(value)
    if not apps:
        raise ConfigError(f"{spec}: {name!r} in {module_name} {_instead(module, value)}")
    return apps


def _import(name: str, spec: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module imports is missing: its traceback says where
        raise ConfigError(f"{spec}: there is no module {error.name!r} in {here} or on the path.") from error


def _apps(value: Any) -> list[App]:
    if isinstance(value, App):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(item, App) for item in value):
        return list(value)
    return []


def _instead(module: ModuleType, value: Any) -> str:
    found = [name for name, other in vars(module).items() if _apps(other) and not name.startswith("_")]
    what = "is not there" if value is None else f"is no App or list of them but {type(value).__name__}"
    return f"{what}; there is: {', '.join(found)}." if found else f"{what}, nor any other App."


def connected(broker: str | None = None, store: str | None = None) -> AbstractAsyncContextManager[Connection]:
    """A broker and its store, open for a command that needs no app. Raises ConfigError or a BrokerError."""
    return opened(connect(load(broker=broker, store=store), Clock()))


@contextlib.asynccontextmanager
async def alone(broker: str | None = None) -> AsyncGenerator[Broker]:
    """A broker without a store, for who has nothing to remember beside it. Raises as `connected` does."""
    async with opened(connect(msgspec.structs.replace(load(broker=broker), store=None), Clock())) as connection:
        yield connection.broker


@contextlib.asynccontextmanager
async def opened(connection: Connection) -> AsyncGenerator[Connection]:
    """Open as long as the block lasts."""
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()
