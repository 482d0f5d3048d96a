"""A server of each kind, on which the commands work."""

import uuid
from urllib.parse import urlsplit

import psycopg
import pytest


def place(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of a part of the shared server of this kind that is nobody else's."""
    server = request.getfixturevalue(f"{kind}_server")
    name = f"cli{uuid.uuid4().hex[:10]}"
    if kind != "postgres":
        return f"{server.url}?prefix={name}-"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return str(urlsplit(server.url)._replace(path=f"/{name}").geturl())


@pytest.fixture
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of server that the shop and the commands use."""
    monkeypatch.setenv("TIDINGS_BROKER", place(request.param, request))
    return str(request.param)
