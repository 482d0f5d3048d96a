"""The embedded broker as the site of a run: one file, read with SQL and not by the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import urlsplit

from tidings.brokers.sqlite import SqliteBroker
from tidings.chaos.books import count, letters
from tidings.chaos.books_sqlite import SqliteBooks
from tidings.chaos.plan import PUBLISHER, Place
from tidings.chaos.site import Blow, Look
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import connect

# Everything but the open dead letters, which nobody works off.
FEEDS = """(SELECT f.id, f.topic FROM tidings_feed f JOIN tidings_group g ON g.id = f.grp
    WHERE g.name NOT LIKE 'operator.%')"""
# Each topic is walked once from where the slowest of its parts is, not once for each part: the order of joins matters.
PENDING = f"""SELECT
    (SELECT count(*) FROM {FEEDS} f
        CROSS JOIN tidings_log l ON l.topic = f.topic
            AND l.pos > (SELECT min(pos) FROM tidings_position WHERE feed = f.id)
        CROSS JOIN tidings_position p ON p.feed = f.id AND p.part = l.part AND p.pos < l.pos
        WHERE NOT EXISTS (SELECT 1 FROM tidings_ack a WHERE a.feed = f.id AND a.pos = l.pos))
    + (SELECT count(*) FROM {FEEDS} f JOIN tidings_ack a ON a.feed = f.id WHERE a.state != 0)
    + (SELECT count(*) FROM tidings_delay)"""  # noqa: S608 - a constant
DEAD = """SELECT l.headers, l.type, l.body FROM tidings_log l JOIN tidings_topic t ON t.id = l.topic
    WHERE t.name LIKE 'dead.%' ORDER BY l.pos"""


class Embedded:
    """A database file of its own for every run: what is there already is left alone."""

    store = None
    faults: Mapping[str, Blow] = MappingProxyType({})
    places: ClassVar = {
        "burying": Place(rare=True),
        "claimed": Place(7),
        "committed": Place(100),
        "committing": Place(100),
        "giving_up": Place(rare=True),
        "held_back": Place(10),
        "lent_again": Place(10),
        "moving_due": Place(rare=True),
        "published": Place(role=PUBLISHER),
        "publishing": Place(role=PUBLISHER),
    }

    def __init__(self, url: str) -> None:
        self._connection = connect(Config(broker=url), Clock())
        assert isinstance(self._connection.broker, SqliteBroker)
        query = urlsplit(url).query
        self.books = SqliteBooks(self._connection.broker.database)
        self.url = f"sqlite:{self.books.path}{query and '?' + query}"
        self.close = self.books.close

    async def prepare(self) -> None:
        """See Site.prepare."""
        self.books.refuse()
        await self._connection.open()
        self.books.prepare()
        await self._connection.close()

    def pending(self) -> int:
        """How many deliveries are not settled."""
        ((found,),) = self.books.read(PENDING)
        return int(found)

    def look(self) -> Look:
        """See Site.look."""
        return Look(self.pending(), count(self.books), *self.books.sizes())

    def dead(self) -> Iterator[tuple[str, str, int]]:
        """See Site.dead."""
        return letters(self.books, DEAD)
