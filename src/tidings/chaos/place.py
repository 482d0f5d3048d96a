"""Whether a URL leads to this machine: what fills or breaks a broker asks that first."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit


def hosts(url: str) -> list[str]:
    """The hosts that a URL names: several with commas between them, each with or without a port; none of a file's."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return []
    query = parse_qs(parts.query)
    places = [parts.netloc.rpartition("@")[2], *query.get("host", []), *query.get("hostaddr", [])]  # libpq's options
    found = (urlsplit(f"//{place}").hostname for named in places for place in named.split(","))
    return [host for host in found if host]


def elsewhere(url: str) -> str | None:
    """The first host of a URL that is not this machine."""
    return next((host for host in hosts(url) if not here(host)), None)


def here(host: str) -> bool:
    """Whether this name or address is one of this machine: only to such an address can a socket be bound."""
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    return all(_bindable(family, address) for family, _, _, _, address in addresses)


def _bindable(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
