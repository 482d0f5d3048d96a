"""Looking at a PostgreSQL server: its settings, and the topics and groups that lie in the database."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.pg.checkup import FACTS, SETTINGS, Facts, examine
from tidings.pg.database import Database
from tidings.pg.reader import Reader
from tidings.survey import Census, Finding, Topic, Wish, unmonitored

MADE = "SELECT to_regclass('tidings.format') IS NOT NULL"
TOPICS = """SELECT t.name, coalesce(c.events, 0),
        (SELECT l.time FROM tidings.log l WHERE l.topic = t.id ORDER BY l.pos LIMIT 1),
        (SELECT l.time FROM tidings.log l WHERE l.topic = t.id ORDER BY l.pos DESC LIMIT 1),
        (SELECT count(*) FROM tidings.delay d WHERE d.topic = t.id),
        ARRAY(SELECT g.name FROM tidings.feed f JOIN tidings.grp g ON g.id = f.grp WHERE f.topic = t.id ORDER BY 1),
        t.id
    FROM tidings.topic t LEFT JOIN (SELECT topic, count(*) AS events FROM tidings.log GROUP BY topic) c
        ON c.topic = t.id ORDER BY t.name"""
SIZES = "SELECT topic, sum(length(body) + length(headers)) FROM tidings.log GROUP BY topic"
MEMBERS = """SELECT g.name, count(*) FILTER (WHERE m.lease > clock_timestamp()) FROM tidings.grp g
    LEFT JOIN tidings.member m ON m.grp = g.id GROUP BY g.name"""
CHEAP = 100_000  # events: more are not read for their sizes


class Surveyor:
    """See survey.Surveyor."""

    def __init__(self, database: Database, monitor: str | None = None) -> None:
        unmonitored(monitor)
        self._reader = Reader(database)

    async def open(self) -> None:
        """See survey.Surveyor."""
        await self._reader.read("SELECT 1")

    async def close(self) -> None:
        """See survey.Surveyor."""
        await self._reader.close()

    async def findings(self, wish: Wish) -> Sequence[Finding]:
        """See survey.Surveyor."""
        told: dict[str, str] = dict(await self._reader.read(SETTINGS))
        (facts,) = await self._reader.read(FACTS)
        return list(examine(told, Facts(*facts), wish))

    async def census(self) -> Census:
        """See survey.Surveyor. What was ever told is not counted: instead it is what is there."""
        ((made,),) = await self._reader.read(MADE)
        if not made:
            return Census([], {})
        rows = await self._reader.read(TOPICS)
        cheap = sum(row[1] for row in rows) <= CHEAP
        sizes: dict[int, int] = dict(await self._reader.read(SIZES)) if cheap else {}
        topics = [
            Topic(name, events, first, last, delayed, int(sizes.get(id, 0)) if cheap else None, groups, ever=events)
            for name, events, first, last, delayed, groups, id in rows
        ]
        return Census(topics, dict(await self._reader.read(MEMBERS)))
