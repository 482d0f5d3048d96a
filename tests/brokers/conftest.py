"""Databases of a PostgreSQL server and files of stores, each for one test."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.brokers.linked_site import Beside, rows_in
from tests.servers.certificates import certificates
from tidings.dev import Postgres

__all__ = ["certificates", "empty_database"]

NUMBERS = itertools.count(1)


@pytest.fixture
def rows(tmp_path: Path) -> Beside:
    """A file of the store beside a link."""
    return rows_in(tmp_path)


@pytest.fixture
def empty_database(postgres_server: Postgres) -> Iterator[str]:
    """The URL of a new one."""
    name = f"test_{next(NUMBERS)}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:  # the server may have been killed
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
