"""The URL of a Redis or Valkey server: where it is, how to sign in, how topics are made. Secrets are not shown."""

from __future__ import annotations

import msgspec

from tidings.errors import ConfigError
from tidings.options import FILES, Host, Readers, Tls, read, seconds, secured, whole, word

FORM = "a Redis address is redis://HOST:PORT/DATABASE (the number of a database), rediss://... for TLS"
TLS = ("rediss", "valkeys")
OPTIONS: Readers = {
    **FILES, "prefix": word("-_."), "parts": whole(1, 512), "replicas": whole(0, 64), "window": seconds,
    "lease": seconds,
}  # fmt: skip


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says. `window` and `lease` in seconds; `parts` is for topics that are made.

    `replicas` is how many replicas must have what is published before it counts as kept.
    """

    place: Host
    user: str | None = None
    password: str | None = None
    database: int = 0
    tls: Tls | None = None
    prefix: str = "tidings"
    parts: int = 8
    replicas: int = 0
    window: float = 600.0
    lease: float | None = None

    def __repr__(self) -> str:
        return f"Address({self.place})"


def parse(url: str) -> Address:
    """What this URL says. Raises ConfigError, which does not repeat what is secret."""
    told = read(url, OPTIONS, port=6379, form=FORM)
    (place, *others), database = told.hosts, told.path or "0"
    if others or not database.isdecimal():
        raise ConfigError(f"{told.shown}: {FORM}")
    return Address(
        place=place,
        user=told.user or None,
        password=told.password,
        database=int(database),
        tls=secured(told, on=told.scheme in TLS),
        **{name: value for name, value in told.options.items() if name not in FILES},
    )
