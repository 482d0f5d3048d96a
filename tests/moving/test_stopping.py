"""SIGTERM and Ctrl-C end a move in order, wherever it is, and it goes on when it is called again."""

import asyncio
import itertools
import os
import signal
from pathlib import Path

import psycopg
import pytest

from tests.cli.terminal import Result, failed, finish
from tests.moving.house import at, furnish, heard, in_order, migrate, migrating, published
from tidings.dev import Postgres, Valkey

pytestmark = pytest.mark.timeout(180)  # a busy machine starts PostgreSQL, and the command many times

NUMBERS = itertools.count(1)
PLACES = ["begun", "copied", "drained"]
"""Where the command is told to stop, one time after the other; in the last one it hears of it behind the fence."""


def stopped_at(place: str, number: int, path: Path, url: str) -> Result:
    """The command hears of the signal exactly there: it stands still until it has been sent."""
    process = migrating(path, url, failpoint=f"{place}:1=stop")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), (place, finish(process).err)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    return finish(process)


@pytest.fixture
def valkey(valkey_server: Valkey) -> str:
    return f"{valkey_server.url}?prefix=stop{next(NUMBERS)}"


@pytest.fixture
def postgres(postgres_server: Postgres) -> str:
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE stopping")
    return postgres_server.url.rpartition("/")[0] + "/stopping"


async def test_told_to_stop_nothing_has_moved_the_app_goes_on_and_so_does_the_next_call(
    tmp_path: Path, valkey: str
) -> None:
    path = tmp_path / "tidings.db"
    left = await furnish(path)
    told = itertools.cycle([signal.SIGTERM, signal.SIGINT])
    for number, place in enumerate(PLACES, 60):
        result = await asyncio.to_thread(stopped_at, place, next(told), path, valkey)
        assert failed(result, 130, "nothing has moved", "The same command goes on"), (place, result)
        assert not await published(path, number)
        for ids in left.values():
            ids.append(f"order-{number}")
    done = left.pop("shop.ship")
    async with at(f"sqlite:{path}?durable=no") as house:
        assert in_order((await heard(house, "shop.ship", len(done))).ids, done)
    assert (await asyncio.to_thread(migrate, path, valkey)).code == 0
    async with at(valkey, f"sqlite:{path}") as there:
        for group, ids in left.items():
            assert in_order((await heard(there, group, len(ids))).ids, ids), group


@pytest.mark.parametrize(
    ("server", "place"), [("valkey", "settling"), ("valkey", "settled"), ("postgres", "carried_over")]
)
async def test_told_to_stop_at_the_last_commit_what_is_said_is_so(
    server: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path, url = tmp_path / "tidings.db", request.getfixturevalue(server)
    await furnish(path)
    result = await asyncio.to_thread(stopped_at, place, signal.SIGTERM, path, url)
    has_moved = result.code == 0 or failed(result, 130, "had moved already", "that is final")
    assert has_moved or failed(result, 130, "nothing has moved"), result
    assert ("has moved to" if has_moved else "") in (refused := await published(path, 60))
    assert bool(refused) == has_moved
    assert (await asyncio.to_thread(migrate, path, url)).code == 0
    assert "has moved to" in await published(path, 61)
