"""The URL of NATS servers: where they are, how to sign in, and how topics are made. Secrets are shown to nobody."""

from __future__ import annotations

from typing import Any

import msgspec

from tidings.errors import ConfigError
from tidings.options import FILES, Readers, Tls, file, read, seconds, secured, whole, word, yes

FORM = "a NATS address is nats://HOST:PORT (several: nats://A:4222,B:4222), tls://... for TLS"
OPTIONS: Readers = {
    **FILES, "creds": file, "nkey": file, "token": str, "tls": yes, "tls_first": yes, "prefix": word("-_"),
    "parts": whole(1, 512), "replicas": whole(1, 5), "window": seconds, "lease": seconds,
}  # fmt: skip


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says. `window`, `lease` in seconds; `parts` and `replicas` are for topics that are made."""

    servers: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    token: str | None = None
    tls: Tls | None = None
    tls_first: bool = False
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
        tls = None if self.tls is None else self.tls.context()
        told: dict[str, Any] = {"tls_handshake_first": self.tls_first, "tls": tls}
        if self.user is not None:
            told |= {"user": self.user, "password": self.password}
        if self.token is not None:
            told["token"] = self.token
        if self.creds is not None:
            told["user_credentials"] = self.creds
        if self.nkey is not None:
            told["nkeys_seed"] = self.nkey
        return told


def parse(url: str) -> Address:
    """What this URL says. Raises ConfigError, which does not repeat what is secret."""
    told = read(url, OPTIONS, port=4222, form=FORM)
    if told.path:
        raise ConfigError(f"{told.shown}: {FORM}")
    options = told.options
    wanted = told.scheme == "tls" or options.pop("tls", False) or options.get("tls_first", False)
    tls = secured(told, on=wanted or any(name in FILES for name in options))
    if told.password is not None:
        options |= {"user": told.user, "password": told.password}
    elif told.user is not None:
        options["token"] = told.user
    servers = tuple(f"{told.scheme}://{host}" for host in told.hosts)
    return Address(servers=servers, tls=tls, **{name: options[name] for name in options if name not in FILES})
