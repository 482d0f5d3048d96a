"""From a URL to a broker and a store: the one file that knows adapters. They are imported only when asked for."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tidings.broker import Broker
from tidings.clock import Clock
from tidings.config import Config
from tidings.errors import ConfigError
from tidings.store import Store


class Connection(NamedTuple):
    """A broker and the store beside it."""

    broker: Broker
    store: Store


def connect(config: Config, clock: Clock) -> Connection:
    """The broker and the store that the settings name, not yet open. Raises ConfigError for what is not known.

    `sqlite:PATH` is a file (`sqlite:tidings.db` in the working folder, `sqlite:/var/lib/shop.db`), `memory:` a
    temporary one without fsync. Options: `?lease=SECONDS`, `?durable=no`.
    """
    scheme, path, options = _split(config.broker)
    if scheme not in ("sqlite", "memory"):
        raise ConfigError(f"broker {config.broker!r}: unknown scheme {scheme!r}; there are: sqlite:PATH, memory:")
    if config.store is not None and _split(config.store)[:2] != (scheme, path):
        raise ConfigError(
            f"store {config.store!r} is not the database of the broker {config.broker!r}. The embedded broker settles "
            "state and messages in one commit, so both have to be one file: leave `store` out."
        )
    return _embedded(config, clock, ":memory:" if scheme == "memory" else path, options)


def _split(url: str) -> tuple[str, str, dict[str, str]]:
    parts = urlsplit(url)
    path = parts.netloc + parts.path if parts.netloc else parts.path
    return parts.scheme, path, dict(parse_qsl(parts.query, keep_blank_values=True))


def _embedded(config: Config, clock: Clock, path: str, options: dict[str, str]) -> Connection:
    from tidings.brokers.sqlite import SqliteBroker
    from tidings.embedded.database import Database
    from tidings.stores.sqlite import SqliteStore

    if not path:
        raise ConfigError(f"broker {config.broker!r} names no file; write sqlite:tidings.db")
    try:
        lease = float(options.pop("lease", config.lease))
        durable = {"yes": True, "no": False}[options.pop("durable", "yes")]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"broker {config.broker!r}: {error} does not fit; write ?lease=30 or ?durable=no") from error
    if options:
        raise ConfigError(
            f"broker {config.broker!r}: unknown option {next(iter(options))!r}; there are: lease, durable"
        )
    database = Database(path, durable=durable)
    limits: dict[str, Any] = {"keep": config.keep, "keep_count": config.keep_count, "limit": config.body_limit}
    broker = SqliteBroker(database, clock, lease=lease, **limits)
    return Connection(broker, SqliteStore(database, lambda: broker.writer))
