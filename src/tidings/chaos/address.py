"""From a URL to the site of a run, and never to another machine unasked."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

from tidings.chaos.embedded import Embedded
from tidings.chaos.remote import Remote
from tidings.chaos.site import Site
from tidings.connect import LINKS
from tidings.errors import ConfigError


def find(url: str, store: str | None = None, *, remote_is_mine: bool = False) -> Site:
    """The site of a broker's URL, with a store beside it where that is a server.

    Raises ConfigError, also for an address that is not on this machine.
    """
    for host in [] if remote_is_mine else hosts(url):
        if not here(host):
            raise ConfigError(
                f"{host} is not this machine. A chaos run fills a broker and breaks its connections, so it touches no "
                "other machine unless you say that it is yours to break: --remote-is-mine"
            )
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return Embedded(url)
    if scheme not in LINKS or store is None:
        known = ", ".join(f"{name}://HOST" for name in LINKS)
        raise ConfigError(
            f"broker {url!r}: a chaos run knows sqlite:PATH, {known}, not {scheme or 'a URL without a scheme'!r}."
        )
    return Remote(url, store)


def hosts(url: str) -> list[str]:
    """The hosts that a URL names: several with commas between them, each with or without a port."""
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    found = (urlsplit(f"//{place}").hostname for place in places)
    return [host for host in found if host]


def here(host: str) -> bool:
    """Whether this is an address of this machine: only then can a socket be bound to it."""
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
