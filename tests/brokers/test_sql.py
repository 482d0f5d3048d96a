"""SQL of one's own that is the same on every store: `Sql` in a handler, on a file and on PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tidings import App, Event, Retry, Sql
from tidings.pg.lent import translated

PATIENCE = 60.0
TABLE = "CREATE TABLE noted (id TEXT NOT NULL, share DOUBLE PRECISION, remark TEXT)"


class Job(Event, name="job.made", version="1.0", key="id"):
    id: str


@pytest.fixture(params=["sqlite", "postgres"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'shop.db'}?durable=no"
    return str(request.getfixturevalue("empty_database"))


@contextlib.asynccontextmanager
async def running(app: App) -> AsyncIterator[None]:
    async with app.running():
        assert app.connection is not None
        unit = app.connection.store.unit()
        unit.add(lambda connection: app.connection and app.connection.store.script(connection, TABLE))
        await unit.commit()
        yield


async def until(app: App, sql: str, wanted: list[Any]) -> None:
    assert app.connection is not None
    async with asyncio.timeout(PATIENCE):
        while True:
            if await app.connection.store.rows(sql, ()) == wanted:
                return
            await asyncio.sleep(0.05)


async def test_values_and_what_is_quoted_come_as_they_were_written(broker: str) -> None:
    app = App("notes", broker=broker)
    found: list[Any] = []

    @app.on(Job)
    def note(job: Job, db: Sql) -> None:
        assert db.execute("INSERT INTO noted VALUES (?, ?, '100 % of ''what?''')", (job.id, 0.25)) == []
        db.executemany("INSERT INTO noted VALUES (?, ?, ?)", [("b%", None, "?"), ("c", 2.5, "%s")])
        found.extend(db.execute("SELECT id, share, remark FROM noted WHERE id != ? ORDER BY id", ("-",)))

    async with running(app):
        await app.publish(Job(id="a"))
        await until(app, "SELECT count(*) FROM noted", [(3,)])
    assert found == [("a", 0.25, "100 % of 'what?'"), ("b%", None, "?"), ("c", 2.5, "%s")]


async def test_a_failure_undoes_its_own_rows_and_no_others(broker: str) -> None:
    app = App("notes", broker=broker)
    tries: dict[str, int] = {}

    @app.on(Job, retry=Retry(times=3, first=0.05))
    def note(job: Job, db: Sql) -> None:
        tries[job.id] = tries.get(job.id, 0) + 1
        db.executemany("INSERT INTO noted (id, share) VALUES (?, ?)", [(job.id, tries[job.id])])
        if job.id in "bc" and tries[job.id] < 3:
            raise ValueError("not yet")

    async with running(app):
        await asyncio.gather(*(app.publish(Job(id=id)) for id in "abcdef"))
        await until(app, "SELECT id FROM noted ORDER BY id", [(id,) for id in "abcdef"])
        assert min(tries["b"], tries["c"]) == 3


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("SELECT ? + ?", b"SELECT %s + %s"),
        ("SELECT '?', \"a?\", 5 % ?", b"SELECT '?', \"a?\", 5 %% %s"),
        ("SELECT 'it''s 5%?' -- why?\n, ?", b"SELECT 'it''s 5%%?' -- why?\n, %s"),
    ],
)
def test_only_marks_outside_of_quotes_are_values(ours: str, theirs: bytes) -> None:
    assert translated(ours) == theirs
