"""What commands that only look have before them: the catalog of the embedded broker's file, never written to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import click

from tidings import dead
from tidings.config import load
from tidings.embedded.catalog import Catalog
from tidings.errors import ConfigError


def catalog(broker: str | None) -> Catalog:
    """The catalog of the file that the URL or the settings name. Raises ConfigError or a StorageError."""
    return Catalog(file_of(load(broker=broker).broker))


def file_of(url: str) -> Path:
    """The database file of a broker's URL. Raises ConfigError where there is none to look into."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        raise ConfigError("memory: lives and dies with one process; nobody can look into it from outside.")
    if parts.scheme != "sqlite" or not parts.netloc + parts.path:
        raise ConfigError(f"broker {url!r} is no database file; write sqlite:tidings.db")
    return Path(parts.netloc + parts.path).absolute()


def internal(name: str) -> bool:
    """Whether a topic or group serves dead letters and replays, and was named by tidings."""
    return name.startswith((dead.PREFIX, dead.REPLAY, dead.OPERATOR))


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name`, if it is one of `names`. Raises click.UsageError, which says what there is."""
    names = sorted(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, 1)
    there = (
        f"did you mean {near[0]}?" if near else f"there are: {', '.join(names[:20])}." if names else "there is none."
    )
    raise click.UsageError(f"There is no {what} {name!r}; {there}")
