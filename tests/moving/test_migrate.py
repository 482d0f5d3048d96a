"""`tidings migrate`: the events of a file move to a server; nothing is lost, handled twice or out of order."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.moving.house import GROUPS, TRIED, at, furnish, heard, in_order, migrate, records
from tidings.broker import Record, Start
from tidings.dev import Nats, Postgres, Valkey
from tidings.moving.tally import difference

NUMBERS = itertools.count(1)
PLACES = ["begun:1", "copied:1", "beginning:2", "drained:1", "fenced:1", "compared:1", "settling:1", "settled:1"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tidings.db"


@pytest.fixture
def valkey(valkey_server: Valkey) -> str:
    return f"{valkey_server.url}?prefix=move{next(NUMBERS)}"


@pytest.fixture
def nats(nats_server: Nats) -> str:
    return f"{nats_server.url}?prefix=move{next(NUMBERS)}"


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[str]:
    name = f"move{next(NUMBERS)}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres_server.url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def store(url: str, path: Path) -> str | None:
    return None if url.startswith("postgres") else f"sqlite:{path}"


async def moved_in(url: str, path: Path, left: dict[str, list[str]], count: int = 60) -> None:
    """Everything is there as it was, and each group does there what it has not done at the file, and nothing else."""
    async with at(url, store(url, path)) as there:
        view = await there.broker.subscribe(["order", "stock"], None, Start.EARLIEST)
        found: dict[str, Record] = {}
        async with asyncio.timeout(20):
            while len(found) < 2 * count:
                found |= {each.record.id: each.record for each in await view.fetch(500, 1.0)}
        assert [difference(found[each.id], each) for each in records(count)] == [""] * (2 * count)
        for group, ids in left.items():
            got = await heard(there, group)
            assert in_order(got.ids, ids), group
            assert got.attempts == {id: 2 if (group, id) == ("shop.count", TRIED) else 1 for id in ids}


@pytest.mark.parametrize("server", ["valkey", "nats", "postgres"])
async def test_history_and_what_groups_have_done_moves(server: str, path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(server)
    left = await furnish(path)
    result = await asyncio.to_thread(migrate, path, url, "--json")
    assert result.code == 0, result.err
    told = result.json
    assert [(topic["topic"], topic["events"]) for topic in told["topics"]] == [("order", 60), ("stock", 60)]
    assert (told["groups"], told["delayed"], told["drained"]) == (len(GROUPS), 1, True)
    await moved_in(url, path, left)
