"""Where a flood may go: to this machine, unless one says that the other is one's own."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from tidings.errors import ConfigError


def check(url: str, *, remote_is_mine: bool) -> None:
    """Raises ConfigError for a broker that a flood must not fill, or that its processes would not share."""
    if urlsplit(url).scheme == "memory":
        raise ConfigError(
            f"broker {url!r}: each process would have a memory of its own. Leave --broker out for a temporary file."
        )
    for host in () if remote_is_mine else hosts(url):
        if not here(host):
            raise ConfigError(
                f"broker {url!r}: {host} is not this machine. A flood fills a broker, so it goes to no other machine "
                "unless you say that it is yours: --remote-is-mine"
            )


def hosts(url: str) -> list[str]:
    """The hosts that a URL names: several with commas between them, each with or without a port; none of a file's."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return []
    places = (urlsplit(f"//{place}").hostname for place in parts.netloc.rpartition("@")[2].split(","))
    return [host for host in places if host]


def here(host: str) -> bool:
    """Whether it is a loopback address. A name is not looked up: that would ask another machine already."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
