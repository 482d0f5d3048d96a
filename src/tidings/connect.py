"""From a URL to a broker and a store: the one file that knows adapters. They are imported only when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from tidings.broker import Broker
from tidings.clock import Clock
from tidings.config import Config
from tidings.errors import ConfigError
from tidings.link import Link
from tidings.options import Readers, divided, known, masked, seconds, yes
from tidings.store import Store

if TYPE_CHECKING:
    from tidings.pg.database import Database
    from tidings.survey import Surveyor


class Scheme(NamedTuple):
    """Where the adapter of a scheme is, and the extra that brings its client; `package` is where the rest of it is."""

    module: str
    link: str
    extra: str
    package: str


LINKS = {
    **dict.fromkeys(("nats", "tls"), Scheme("nats", "NatsLink", "nats", "jetstream")),
    "kafka": Scheme("kafka", "KafkaLink", "kafka", "kafka"),
    **dict.fromkeys(("amqp", "amqps"), Scheme("rabbitmq", "RabbitLink", "rabbitmq", "amqp")),
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys"), Scheme("redis", "RedisLink", "redis", "redis")),
}
"""Servers that move records; the engine and a store supply what they lack."""
POSTGRES = ("postgresql", "postgres")
EMBEDDED = ("sqlite", "memory")
OPTIONS: Readers = {"lease": seconds, "durable": yes}
"""Those of a database."""


class Connection(NamedTuple):
    """A broker and the store beside it."""

    broker: Broker
    store: Store

    async def open(self) -> None:
        """Connect both. Raises a BrokerError that says what to do."""
        await self.store.open()
        try:
            await self.broker.open()
        except BaseException:
            await self.store.close()
            raise

    async def close(self) -> None:
        """Disconnect both, when what is under way has been kept."""
        try:
            await self.broker.close()
        finally:
            await self.store.close()


def connect(config: Config, clock: Clock) -> Connection:
    """The broker and the store that the settings name, not yet open. Raises ConfigError for what is not known.

    `sqlite:PATH` is a file (`sqlite:tidings.db` in the working folder, `sqlite:/var/lib/shop.db`), `memory:` a
    temporary one without fsync. Options: `?lease=SECONDS`, `?durable=no`; both also of
    `postgresql://USER@HOST:PORT/DATABASE`, beside those of libpq, such as `?sslmode=verify-full`. The URLs of servers
    are those of their clients, with options of ours beside theirs; see the guide of each.
    A server has the store that is named, or none.
    """
    scheme, path = _split(config.broker)
    if scheme in LINKS:
        return _linked(config, clock, LINKS[scheme])
    if scheme in POSTGRES:
        return _postgres(config, clock)
    if scheme not in EMBEDDED:
        raise _unknown(config.broker, scheme)
    if config.store is not None and _split(config.store) != (scheme, path):
        raise ConfigError(
            f"store {masked(config.store)!r} is not the database of broker {config.broker!r}. The embedded broker "
            "settles state and messages in one commit, so both have to be one file: leave `store` out."
        )
    return _embedded(config, clock, ":memory:" if scheme == "memory" else path)


def surveyor(config: Config, clock: Clock, monitor: str | None = None) -> Surveyor | None:
    """What looks at the server of the broker, not yet open; None where that is no server. Raises ConfigError.

    `monitor` is the URL where the server tells its operators more than its clients, where it has one.
    """
    scheme = _split(config.broker)[0]
    if scheme in POSTGRES:
        database = _server(config.broker, config, clock)[1]
        from tidings.pg.survey import Surveyor

        return Surveyor(database, monitor)
    if scheme in EMBEDDED:
        return None
    if scheme not in LINKS:
        raise _unknown(config.broker, scheme)
    importlib.import_module(f"tidings.brokers.{LINKS[scheme].module}")  # which says what to install
    module = importlib.import_module(f"tidings.{LINKS[scheme].package}.survey")
    found: Surveyor = module.Surveyor(config.broker, clock, monitor)
    return found


def _unknown(url: str, scheme: str) -> ConfigError:
    servers = ", ".join(f"{name}://HOST" for name in [POSTGRES[0], *LINKS])
    return ConfigError(f"broker {masked(url)!r}: unknown scheme {scheme!r}; there are: sqlite:PATH, memory:, {servers}")


def _linked(config: Config, clock: Clock, scheme: Scheme) -> Connection:
    from tidings.linked import Linked

    module = importlib.import_module(f"tidings.brokers.{scheme.module}")
    link: Link = getattr(module, scheme.link)(config.broker, clock, lease=config.lease, keep=config.keep)
    store = _store(config, clock)
    limits: dict[str, Any] = {"keep": config.keep, "limit": config.body_limit, "lease": config.lease}
    return Connection(Linked(link, store, clock, **limits), store)


def _store(config: Config, clock: Clock) -> Store:
    """The store beside a server."""
    from tidings.storeless import Storeless

    if config.store is None:
        return Storeless()
    scheme, path = _split(config.store)
    if scheme in POSTGRES:
        from tidings.stores.postgres import PostgresStore

        return PostgresStore(_server(config.store, config, clock)[1])
    if scheme != "sqlite" or not path:
        raise ConfigError(
            f"store {masked(config.store)!r} is not known beside the broker {masked(config.broker)!r}; "
            "there are: sqlite:PATH, for all processes of one machine, and postgresql://HOST"
        )
    from tidings.embedded.database import Database
    from tidings.stores.sqlite import SqliteStore

    known(config.store, {})
    return SqliteStore(Database(path), clock=clock)


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc + parts.path


def _embedded(config: Config, clock: Clock, path: str) -> Connection:
    from tidings.brokers.sqlite import SqliteBroker
    from tidings.embedded.database import Database
    from tidings.stores.sqlite import SqliteStore

    if not path:
        raise ConfigError(f"broker {config.broker!r} names no file; write sqlite:tidings.db")
    options = known(config.broker, OPTIONS)
    database = Database(path, durable=options.get("durable", True))
    limits: dict[str, Any] = {"keep": config.keep, "keep_count": config.keep_count, "limit": config.body_limit}
    broker = SqliteBroker(database, clock, lease=options.get("lease", config.lease), **limits)
    return Connection(broker, SqliteStore(database, lambda: broker.writer, clock=clock))


def _postgres(config: Config, clock: Clock) -> Connection:
    lease, database = _server(config.broker, config, clock)
    from tidings.brokers.postgres import PostgresBroker
    from tidings.stores.postgres import PostgresStore

    if config.store not in (None, config.broker):
        raise ConfigError(
            f"store {masked(config.store or '')!r} is not the database of the broker {database.name!r}. Both settle "
            "in one commit, so both have to be one database: leave `store` out."
        )
    limits: dict[str, Any] = {"keep": config.keep, "keep_count": config.keep_count, "limit": config.body_limit}
    broker = PostgresBroker(database, clock, lease=lease, **limits)
    return Connection(broker, PostgresStore(database, lambda: broker.writer))


def _server(url: str, config: Config, clock: Clock) -> tuple[float, Database]:
    """The lease and the database that a URL of PostgreSQL names."""
    try:
        from tidings.pg.database import Database
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise ConfigError("PostgreSQL needs its driver: pip install 'tidings[postgres]'") from error
    options, others = divided(url, OPTIONS)
    lease: float = options.get("lease", config.lease)
    address = urlsplit(url)._replace(query=urlencode(others, quote_via=quote)).geturl()
    return lease, Database(address, clock, durable=options.get("durable", True), idle=lease)
