"""The URL of RabbitMQ: where it is, how to sign in, how queues are made. Secrets are shown to nobody."""

from __future__ import annotations

import msgspec
import pika
from pika.credentials import ExternalCredentials, PlainCredentials

from tidings.options import FILES, Host, Readers, Tls, read, secured, whole, word

FORM = "a RabbitMQ address is amqp://USER:PASSWORD@HOST:PORT/VHOST, amqps:// for TLS; several: amqp://A:5672,B:5672/"
SLOTS = 32
"""Routing keys of a topic; a group's parts share them, so that it has at most as many."""
HANDSHAKE = 10.0
GUEST = "guest"
"""The user that RabbitMQ has by itself, and lets in from its own machine only."""
OPTIONS: Readers = {**FILES, "prefix": word("-_"), "parts": whole(1, SLOTS), "heartbeat": whole(1, 3600)}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says. `heartbeat` in seconds; `parts` is for groups that are made."""

    servers: tuple[Host, ...]
    vhost: str = "/"
    user: str | None = None
    password: str | None = None
    tls: Tls | None = None
    prefix: str = "tidings"
    parts: int = 4
    heartbeat: int | None = None

    def __repr__(self) -> str:
        return f"Address({', '.join(map(str, self.servers))})"

    def parameters(self, heartbeat: int) -> pika.ConnectionParameters:
        """What pika is told, but host and port."""
        return pika.ConnectionParameters(
            virtual_host=self.vhost,
            credentials=self._credentials(),
            heartbeat=heartbeat,
            client_properties={"product": "tidings"},
        )

    @property
    def who(self) -> str:
        """Who signs in, for messages."""
        return "the user that the certificate names" if self._external else f"the user {self.user or GUEST!r}"

    @property
    def _external(self) -> bool:
        return not self.user and self.tls is not None and self.tls.cert is not None

    def _credentials(self) -> PlainCredentials | ExternalCredentials:
        """Who names no user is whom the certificate names, or else the user that RabbitMQ has by itself."""
        if self._external:
            return ExternalCredentials()
        return PlainCredentials(self.user or GUEST, self.password or GUEST, erase_on_connect=False)


def parse(url: str) -> Address:
    """What this URL says. Raises ConfigError, which does not repeat what is secret."""
    tls = url.startswith("amqps:")
    told = read(url, OPTIONS, port=5671 if tls else 5672, form=FORM)
    return Address(
        servers=told.hosts,
        vhost=told.path or "/",
        user=told.user,
        password=told.password,
        tls=secured(told, on=tls),
        **{name: value for name, value in told.options.items() if name not in FILES},
    )
