"""The URL of a Redis or Valkey server: where it is, how to sign in, how topics are made. Secrets are not shown."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tidings.errors import ConfigError

PORT = 6379
TLS = ("rediss", "valkeys")
PREFIX = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says. `window` and `lease` in seconds; `parts` is for topics that are made.

    `replicas` is how many replicas must have what is published before it counts as kept.
    """

    host: str
    port: int = PORT
    user: str | None = None
    password: str | None = None
    database: int = 0
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    prefix: str = "tidings"
    parts: int = 8
    replicas: int = 0
    window: float = 600.0
    lease: float | None = None

    def __repr__(self) -> str:
        return f"Address({self.place})"

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"

    def context(self) -> ssl.SSLContext | None:
        """How to speak TLS, if at all. Raises ConfigError for files that cannot be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the certificates for Redis ({self.ca or self.cert}) cannot be used: {error}") from error
        return context


def parse(url: str) -> Address:
    """What this URL says. Raises ConfigError, which does not repeat what is secret."""
    split = urlsplit(url)
    told: dict[str, Any] = {"tls": split.scheme in TLS}
    try:
        told |= {"host": split.hostname or "", "port": split.port or PORT, "database": int(split.path.strip("/") or 0)}
    except ValueError:
        told["host"] = ""
    if not told["host"]:
        raise ConfigError(
            "a Redis address is redis://HOST:PORT/DATABASE (the number of a database), rediss://... for TLS"
        )
    if split.username:
        told["user"] = unquote(split.username)
    if split.password is not None:
        told["password"] = unquote(split.password)
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        told[name] = _option(name, value)
    return Address(**told)


def _prefix(value: str) -> str:
    if not value or not PREFIX.issuperset(value):
        raise ValueError("letters, digits, - . and _ only")
    return value


def _file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError("there is no such file")
    return value


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not value.isdecimal() or not least <= int(value) <= most:
            raise ValueError(f"a number from {least} to {most}")
        return int(value)

    return read


def _seconds(value: str) -> float:
    if not 0 < float(value) < 1e9:
        raise ValueError("seconds, more than none")
    return float(value)


OPTIONS: dict[str, Callable[[str], Any]] = {
    "ca": _file, "cert": _file, "key": _file, "prefix": _prefix, "parts": _whole(1, 512), "replicas": _whole(0, 64),
    "window": _seconds, "lease": _seconds,
}  # fmt: skip


def _option(name: str, value: str) -> Any:
    if name not in OPTIONS:
        raise ConfigError(f"Redis address: unknown option {name!r}; there are: {', '.join(sorted(OPTIONS))}")
    try:
        return OPTIONS[name](value)
    except ValueError as error:
        raise ConfigError(f"Redis address: {name}={value!r} does not fit: {error}") from error
