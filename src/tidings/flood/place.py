"""Where a flood may go: to this machine, unless one says that the other is one's own."""

from __future__ import annotations

from urllib.parse import urlsplit

from tidings.chaos.place import elsewhere
from tidings.errors import ConfigError


def check(url: str, *, remote_is_mine: bool) -> None:
    """Raises ConfigError for a broker that a flood must not fill, or that its processes would not share."""
    if urlsplit(url).scheme == "memory":
        raise ConfigError(
            f"broker {url!r}: each process would have a memory of its own. Leave --broker out for a temporary file."
        )
    if not remote_is_mine and (host := elsewhere(url)):
        raise ConfigError(
            f"broker {url!r}: {host} is not this machine. A flood fills a broker, so it goes to no other machine "
            "unless you say that it is yours: --remote-is-mine"
        )
