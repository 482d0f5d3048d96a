"""Settings: tidings.toml < environment < what the program or a flag says. An unknown key is an error."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tidings.errors import ConfigError

FILE = "tidings.toml"
PREFIX = "TIDINGS_"
OTHER_VARIABLES = {"TIDINGS_FAILPOINT"}


Positive = Annotated[float, msgspec.Meta(gt=0)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set. Durations in seconds, sizes in bytes.

    `broker` and `store` are URLs; the store is the broker's own database by default. `keep` is how long a topic keeps
    what every group has settled (a week where nothing is said, `inf` for ever), `keep_count` how many records of it at
    most. `lease` is how long a silent worker keeps its events. `grace` is how long a worker may finish what it has
    begun when it is told to stop. `stall` is how long there may be a backlog and no progress before readiness is turned
    off, and `stall_exit` whether the process then ends. Where it says nothing, a process with a supervisor that starts
    it again ends when its event loop stays blocked or a handler that is over its time limit cannot be stopped. A worker
    whose broker is not there when it starts says so and waits for it; with `fail_fast` it ends.
    """

    broker: str = "sqlite:tidings.db"
    store: str | None = None
    encoding: Literal["json", "msgpack"] = "json"
    body_limit: Annotated[int, msgspec.Meta(gt=0)] = 1 << 20
    keep: Positive | None = None
    keep_count: Annotated[int, msgspec.Meta(gt=0)] | None = None
    lease: Positive = 30.0
    grace: Annotated[float, msgspec.Meta(ge=0)] = 25.0
    stall: Positive = 60.0
    stall_exit: bool | None = None
    fail_fast: bool = False


def load(folder: Path | None = None, environment: Mapping[str, str] | None = None, **given: Any) -> Config:
    """The settings for a program run in `folder`. Raises ConfigError, which names where the wrong one was written."""
    settings: dict[str, Any] = {}
    path = (folder or Path.cwd()) / FILE
    if path.is_file():
        settings |= _checked(_read(path), str(path))
    variables = os.environ if environment is None else environment
    for name, text in variables.items():
        if name.startswith(PREFIX) and name not in OTHER_VARIABLES:
            settings |= _checked({name.removeprefix(PREFIX).lower(): text}, f"the environment variable {name}")
    settings |= _checked({name: value for name, value in given.items() if value is not None}, "the program")
    return msgspec.convert(settings, Config)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _checked(settings: dict[str, Any], where: str) -> dict[str, Any]:
    for name in settings:
        if name not in Config.__struct_fields__:
            near = difflib.get_close_matches(name, Config.__struct_fields__, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(Config.__struct_fields__)}."
            raise ConfigError(f"{where}: unknown setting {name!r}; {hint}")
    try:
        converted = msgspec.convert(settings, Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
    return {name: getattr(converted, name) for name in settings}
