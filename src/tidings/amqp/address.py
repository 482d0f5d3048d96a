"""The URL of RabbitMQ: where it is, how to sign in, how queues are made. Secrets are shown to nobody."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pika
from pika.credentials import ExternalCredentials, PlainCredentials

from tidings.errors import ConfigError

PORTS = {"amqp": 5672, "amqps": 5671}
PREFIX = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
SLOTS = 32
"""Routing keys of a topic; a group's parts share them, so that it has at most as many."""
HANDSHAKE = 10.0


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says. `heartbeat` in seconds; `parts` is for groups that are made."""

    servers: tuple[tuple[str, int], ...]
    vhost: str = "/"
    user: str = "guest"
    password: str = "guest"  # noqa: S105 - what RabbitMQ has by itself, and lets in from its own machine only
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    prefix: str = "tidings"
    parts: int = 4
    heartbeat: int | None = None

    def __repr__(self) -> str:
        return f"Address({', '.join(f'{host}:{port}' for host, port in self.servers)})"

    def parameters(self, heartbeat: int) -> pika.ConnectionParameters:
        """What pika is told, but host and port."""
        plain = PlainCredentials(self.user, self.password, erase_on_connect=False)
        return pika.ConnectionParameters(
            virtual_host=self.vhost,
            credentials=ExternalCredentials() if self.cert is not None and self.user == "" else plain,
            heartbeat=heartbeat,
            client_properties={"product": "tidings"},
        )

    def context(self) -> ssl.SSLContext | None:
        """How TLS is spoken; None where it is not. Raises ConfigError for files that cannot be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificates for RabbitMQ ({self.ca}, {self.cert}) cannot be used: {error}"
            ) from error
        return context


def parse(url: str) -> Address:
    """What this URL says. Raises ConfigError, which does not repeat what is secret."""
    split = urlsplit(url)
    secret, at, hosts = split.netloc.rpartition("@")
    if not hosts:
        raise ConfigError(
            "a RabbitMQ address is amqp://USER:PASSWORD@HOST:PORT/VHOST, amqps:// for TLS; several: amqp://A:5672,B:5672/"
        )
    told: dict[str, Any] = {"tls": split.scheme == "amqps"}
    if at:
        user, _, password = secret.partition(":")
        told |= {"user": unquote(user), "password": unquote(password)}
    told["servers"] = tuple(_server(each, PORTS.get(split.scheme, 5672)) for each in hosts.split(","))
    if split.path not in ("", "/"):
        told["vhost"] = unquote(split.path[1:])
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        told[name] = _option(name, value)
    return Address(**told)


def _server(host: str, usual: int) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{host}")
        return split.hostname or "localhost", split.port or usual
    except ValueError as error:
        raise ConfigError(f"RabbitMQ server {host!r}: {error}") from error


def _prefix(value: str) -> str:
    if not value or not PREFIX.issuperset(value):
        raise ValueError("letters, digits, - and _ only")
    return value


def _file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError("there is no such file")
    return value


def _whole(value: str, most: int) -> int:
    if not 1 <= int(value) <= most:
        raise ValueError(f"a number from 1 to {most}")
    return int(value)


OPTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("ca", "cert", "key"), _file),
    "prefix": _prefix,
    "parts": lambda value: _whole(value, SLOTS),
    "heartbeat": lambda value: _whole(value, 3600),
}


def _option(name: str, value: str) -> Any:
    if name not in OPTIONS:
        raise ConfigError(f"RabbitMQ address: unknown option {name!r}; there are: {', '.join(sorted(OPTIONS))}")
    try:
        return OPTIONS[name](value)
    except ValueError as error:
        raise ConfigError(f"RabbitMQ address: {name}={value} does not fit: {error}") from error
