"""One real server of each kind for a whole test session, started when a test first asks for it.

Tests share it, so what they make on it has names of its own. Who kills or freezes it brings it back.
"""

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tidings import dev

S = TypeVar("S", bound=dev.Server)


def require(server: type[dev.Server]) -> None:
    """Skip where the server is not installed; in CI all are, so that there it fails."""
    missing = server.needs()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    elif missing:
        pytest.skip(missing)


def shared(server: type[S]) -> Callable[[pytest.TempPathFactory], Iterator[S]]:
    """The session's server of a kind, as a fixture."""

    @pytest.fixture(scope="session", name=f"{server.kind}_server")
    def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S]:
        require(server)
        with server(tmp_path_factory.mktemp(server.kind)) as started:
            yield started

    return running


kafka_server = shared(dev.Kafka)
nats_server = shared(dev.Nats)
postgres_server = shared(dev.Postgres)
rabbitmq_server = shared(dev.RabbitMQ)
valkey_server = shared(dev.Valkey)
