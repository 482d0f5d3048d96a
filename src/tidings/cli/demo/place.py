"""Where the shop is: in a file of its own, or on a server that is named, or on one that is started for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from tidings import dev
from tidings.cli.demo.options import Options
from tidings.cli.dev import KINDS
from tidings.cli.output import progress
from tidings.connect import LINKS

KEEP = 100 * 365 * 86400.0
"""Seconds for which the shop keeps its events: as long as it has them, an order placed again is not a second one."""
LEASE = 6.0
"""Seconds after which a server takes a worker for dead that says nothing: the least that Kafka allows by itself."""


class Place(NamedTuple):
    """A broker and a store; `folder` is temporary.

    `kept`: both will be there the next time, and the same command goes on with what is in them.
    """

    broker: str
    store: str | None
    folder: Path
    kept: bool

    @property
    def settings(self) -> dict[str, Any]:
        """For every process of the demo, the same: they also say how topics are made."""
        return {"broker": self.broker, "store": self.store, "keep": KEEP, "lease": LEASE}


@contextlib.contextmanager
def placed(options: Options) -> Generator[Place]:
    """The place that was asked for; what is temporary of it lasts as long as the block.

    Raises click.ClickException for what cannot be, ConfigError for a server that is not installed.
    """
    if options.broker is not None and options.db is not None:
        raise click.UsageError("--db FILE is short for --broker sqlite:FILE: leave one of them out.")
    with tempfile.TemporaryDirectory(prefix="tidings-demo-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        if options.broker is None:
            broker, temporary_broker = f"sqlite:{(options.db or folder / 'shop.db').absolute()}", options.db is None
        elif ":" in options.broker:
            broker, temporary_broker = options.broker, False
        else:
            broker, temporary_broker = stack.enter_context(_server(options.broker)), True
        scheme = urlsplit(broker).scheme
        if scheme == "memory":
            raise click.UsageError("The shop has several processes, and memory: belongs to one; write sqlite:shop.db")
        store = options.store
        if store is None and scheme in LINKS:
            store = f"sqlite:{folder / 'shop.db'}"
        kept = not temporary_broker and store == options.store
        yield Place(broker, store, folder, kept)


@contextlib.contextmanager
def _server(name: str) -> Generator[str]:
    """The URL of a server of this kind, started for the demo and gone after it."""
    kinds = {kind.kind: kind for kind in (dev.Nats, dev.Valkey, dev.Postgres, dev.RabbitMQ, dev.Kafka)}
    if name not in KINDS:
        raise click.UsageError(
            f"There is no server {name!r} to start; there are: {', '.join(KINDS)}. "
            "For one that runs write its URL, such as nats://127.0.0.1:4222"
        )
    with contextlib.closing(kinds[name]()) as server:
        with progress(f"starting {name}", 1) as advance:
            server.start()
            advance(1)
        yield server.url
