"""The URL of NATS servers: where they are, how to sign in, and how topics are made. Secrets are shown to nobody."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tidings.errors import ConfigError

PORT = 4222
FILES = ("ca", "cert", "key", "creds", "nkey")
PREFIX = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says. `window`, `lease` in seconds; `parts` and `replicas` are for topics that are made."""

    servers: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    token: str | None = None
    tls: bool = False
    tls_first: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    creds: str | None = None
    nkey: str | None = None
    prefix: str = "tidings"
    parts: int = 8
    replicas: int = 1
    window: float = 600.0
    lease: float | None = None

    def __repr__(self) -> str:
        return f"Address({', '.join(self.servers)})"

    def options(self) -> dict[str, Any]:
        """What nats-py is told. Raises ConfigError for files that cannot be used."""
        told: dict[str, Any] = {"tls_handshake_first": self.tls_first, "tls": self._tls()}
        if self.user is not None:
            told |= {"user": self.user, "password": self.password}
        if self.token is not None:
            told["token"] = self.token
        if self.creds is not None:
            told["user_credentials"] = self.creds
        if self.nkey is not None:
            told["nkeys_seed"] = self.nkey
        return told

    def _tls(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the certificates for NATS ({self.ca or self.cert}) cannot be used: {error}") from error
        return context


def parse(url: str) -> Address:
    """What this URL says. Raises ConfigError, which does not repeat what is secret."""
    split = urlsplit(url)
    told: dict[str, Any] = {"tls": split.scheme == "tls"}
    secret, _, hosts = split.netloc.rpartition("@")
    if not hosts or split.path not in ("", "/"):
        raise ConfigError("a NATS address is nats://HOST:PORT (several: nats://A:4222,B:4222), tls://... for TLS")
    if secret:
        user, colon, password = secret.partition(":")
        told |= {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}
    told["servers"] = tuple(_server(each, split.scheme) for each in hosts.split(","))
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        told[name] = _option(name, value)
    told["tls"] |= bool(told.get("ca") or told.get("cert") or told.get("tls_first"))
    return Address(**told)


def _server(host: str, scheme: str) -> str:
    try:
        port = urlsplit(f"//{host}").port
    except ValueError as error:
        raise ConfigError(f"NATS server {host!r}: {error}") from error
    return f"{scheme}://{host}" if port else f"{scheme}://{host}:{PORT}"


def _prefix(value: str) -> str:
    if not value or not PREFIX.issuperset(value):
        raise ValueError("letters, digits, - and _ only")
    return value


def _file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError("there is no such file")
    return value


def _whole(value: str) -> int:
    if not 1 <= int(value) <= 512:
        raise ValueError("a number from 1 to 512")
    return int(value)


def _seconds(value: str) -> float:
    if not 0 < float(value) < 1e9:
        raise ValueError("seconds, more than none")
    return float(value)


def _yes(value: str) -> bool:
    if value not in ("yes", "no"):
        raise ValueError("yes or no")
    return value == "yes"


OPTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(FILES, _file), "token": str, "tls": _yes, "tls_first": _yes, "prefix": _prefix,
    "parts": _whole, "replicas": _whole, "window": _seconds, "lease": _seconds,
}  # fmt: skip


def _option(name: str, value: str) -> Any:
    if name not in OPTIONS:
        raise ConfigError(f"NATS address: unknown option {name!r}; there are: {', '.join(sorted(OPTIONS))}")
    try:
        return OPTIONS[name](value)
    except ValueError as error:
        shown = "" if name == "token" else f"={value}"
        raise ConfigError(f"NATS address: {name}{shown} does not fit: {error}") from error
