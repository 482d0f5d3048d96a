"""From a URL to the site of a run, and never to another machine unasked."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from tidings.chaos.embedded import Embedded
from tidings.chaos.place import elsewhere
from tidings.chaos.remote import Remote
from tidings.chaos.site import Blow, Site
from tidings.connect import LINKS, POSTGRES
from tidings.errors import ConfigError


def find(
    url: str,
    store: str | None = None,
    *,
    remote_is_mine: bool = False,
    faults: Mapping[str, Blow] | None = None,
    direct: str | None = None,
) -> Site:
    """The site of a broker's URL, with a store beside it where that is a server that keeps no state.

    `faults` are what can befall it, and `direct` is where it is looked at, where the way to `url` is broken. Raises
    ConfigError, also for an address that is not on this machine.
    """
    for place in [] if remote_is_mine else filter(None, [url, store]):
        if host := elsewhere(place):
            raise ConfigError(
                f"{host} is not this machine. A chaos run fills a broker and breaks its connections, so it touches no "
                "other machine unless you say that it is yours to break: --remote-is-mine"
            )
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return Embedded(url)
    if scheme in POSTGRES:
        from tidings.chaos.postgres import Postgres

        return Postgres(url, faults=faults, direct=direct)
    if scheme not in LINKS or store is None:
        known = ", ".join(f"{name}://HOST" for name in [POSTGRES[0], *LINKS])
        raise ConfigError(f"A chaos run knows sqlite:PATH, {known}, not {scheme or 'a URL without a scheme'!r}.")
    return Remote(url, store, faults=faults, direct=direct)
