"""The statements with which a member of a group reads, lends and settles, and what it learns by them.

`page` reads on and notes in the same statement how far the member has read: what it is lent is known to whoever has to
take over, before any handler runs. That note need not reach the disk, because only the death of a process needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from tidings.embedded import hand
from tidings.embedded.feed import Feed, Loan
from tidings.embedded.hand import Settling, done
from tidings.pg.connection import Connection, Row
from tidings.pg.packed import Smalls, blobs, longs, smalls
from tidings.pg.writer import Step

LOOK = 1.0
"""Seconds after which whoever waits looks for itself, told or not."""
READ = 8 << 20
"""Bytes of bodies that are read at a time, and one more body."""
COLUMNS = "pos, part, id, type, key, time, headers, body"
PAGE = f"""SELECT max(pos) AS last FROM (
        SELECT pos, sum(size) OVER (ORDER BY pos ROWS UNBOUNDED PRECEDING) - size AS before
        FROM (SELECT pos, length(body) AS size FROM tidings.log
            WHERE topic = %(topic)s AND pos > %(after)s{{parts}} ORDER BY pos LIMIT %(limit)s) p) q
    WHERE before < {READ}"""
ROWS = f"""SELECT {COLUMNS} FROM tidings.log
    WHERE topic = %(topic)s AND pos > %(after)s{{parts}} AND pos <= ({{last}}) ORDER BY pos"""
"""Where a page ends is found among sizes alone: to carry whole rows through that took twice as long."""
LOOK_ON = ROWS.format(parts="", last=PAGE.format(parts=""))
LEND = f"""WITH noted AS (UPDATE tidings.cursor c SET pos = m.last FROM ({PAGE}) m
        WHERE c.member = %(member)s AND c.feed = %(feed)s AND m.last IS NOT NULL RETURNING c.pos)
    {ROWS.format(parts="{parts}", last="SELECT pos FROM noted")}"""
LEND_ALL, LEND_SOME = LEND.format(parts=""), LEND.format(parts=" AND part = ANY(%(parts)s)")
NOW = "extract(epoch FROM clock_timestamp())::float8"

FENCE = "SELECT FROM tidings.member WHERE id = %s FOR KEY SHARE"
SETTLE = """UPDATE tidings.position p SET pos = %s
    FROM (SELECT id FROM tidings.member WHERE id = %s FOR KEY SHARE) m
    WHERE p.feed = %s AND p.part = ANY(%s) AND p.pos < %s"""
PARK = """INSERT INTO tidings.ack (feed, pos, part, state, tries, key, due)
    SELECT u.*, 0 FROM unnest(%s, %s, %s, %s, %s, %s) u ON CONFLICT DO NOTHING"""
FORGET_DONE = "DELETE FROM tidings.ack WHERE feed = %s AND state = 0 AND pos <= %s AND part = ANY(%s)"
KEEP_DONE = """UPDATE tidings.ack a SET state = 0, key = NULL FROM tidings.position p
    WHERE a.feed = %s AND a.pos = ANY(%s) AND p.feed = a.feed AND p.part = a.part AND a.pos > p.pos"""
FORGET = "DELETE FROM tidings.ack WHERE feed = %s AND pos = ANY(%s) AND state != 0"
RELEASE_NEXT = """UPDATE tidings.ack a SET state = CASE WHEN a.tries > 0 AND a.due = 0 THEN 4 ELSE 1 END
    FROM (SELECT min(pos) AS pos FROM tidings.ack WHERE feed = %(feed)s AND key = ANY(%(keys)s) GROUP BY key) n
    WHERE a.feed = %(feed)s AND a.pos = n.pos AND a.state = 2"""
STILL_HELD = "SELECT DISTINCT key FROM tidings.ack WHERE feed = %s AND key = ANY(%s)"
AGAIN = f"""INSERT INTO tidings.ack (feed, pos, part, state, tries, due, key)
    VALUES (%(feed)s, %(pos)s, %(part)s, 1, %(tries)s,
        CASE WHEN %(delay)s > 0 THEN {NOW} + %(delay)s ELSE 0 END, %(key)s)
    ON CONFLICT (feed, pos) DO UPDATE SET state = 1, due = excluded.due, tries = excluded.tries"""
HOLD_LATER = """UPDATE tidings.ack SET state = 2, tries = tries - (state = 3)::int
    WHERE feed = %s AND key = %s AND pos > %s AND state IN (1, 3, 4)"""
STATES = f"""SELECT state, (min(due) - {NOW})::float8 FROM tidings.ack
    WHERE feed = %s AND part = ANY(%s) AND state IN (1, 4) GROUP BY state"""
EXCEPTIONS = f"""SELECT {COLUMNS}, tries FROM (SELECT l.pos, l.part, l.id, l.type, l.key, l.time, l.headers, l.body,
        a.tries + 1 AS tries, sum(length(l.body)) OVER (ORDER BY l.pos) - length(l.body) AS before
    FROM (SELECT pos, tries FROM tidings.ack WHERE feed = %(feed)s AND state = %(state)s AND due <= {NOW}
            AND part = ANY(%(parts)s) ORDER BY pos LIMIT %(limit)s) a
    JOIN tidings.log l ON l.topic = %(topic)s AND l.pos = a.pos) q WHERE before < {READ} ORDER BY pos"""
MARK_LENT = """UPDATE tidings.ack a SET state = 3, tries = n.tries FROM unnest(%s::bigint[], %s::int[]) n(pos, tries)
    WHERE a.feed = %s AND a.pos = n.pos AND a.state IN (1, 4) RETURNING a.pos"""
KNOWN = "SELECT pos, state, key FROM tidings.ack WHERE feed = %s AND part = ANY(%s)"


class Mine(NamedTuple):
    """The parts that a member owns. Whoever was fenced comes back as another member."""

    parts: list[int]
    array: Smalls
    member: int


def own(parts: list[int], member: int) -> Mine:
    """What a member owns; the parts as a value for statements are made once."""
    return Mine(parts, smalls(parts), member)


class Outlook(NamedTuple):
    """What exceptions a feed has: whether there are suspects, and in how many seconds the next one is due."""

    suspects: bool
    due: float | None


class Host(hand.Host, Protocol):
    """What a group needs of its broker to read and write."""

    lease: float
    process: Any

    async def read(self, sql: str, values: Any = None) -> list[Row]:
        """One short statement."""
        ...

    async def run(self, step: Step) -> Any:
        """Run a step in a transaction."""
        ...

    def deliveries(self, topic: str, rows: Sequence[Row], attempts: Sequence[int] | None = None) -> list[Loan]:
        """Rows of the log as what is lent."""
        ...


def simple(settling: Settling) -> bool:
    """Whether moving the position says it all."""
    return not (settling.above or settling.retried or settling.feed.done_to)


def moved(settling: Settling, mine: Mine) -> Row:
    """The values of SETTLE."""
    return settling.mark, mine.member, settling.feed.id, mine.array, settling.mark


def parked(rows: Sequence[Row]) -> tuple[Any, ...]:
    """The values of PARK, of rows of feed, position, part, state, tries and key."""
    *numbers, keys = zip(*rows, strict=True)
    return (*map(longs, numbers), blobs(keys))


def settle(connection: Connection, settling: Settling, mine: Mine) -> None:
    """In the transaction: move the position, and keep or drop the rows that say what it cannot."""
    feed = settling.feed
    connection.defer(SETTLE, moved(settling, mine))
    if settling.above:
        connection.defer(PARK, parked([(*row, None) for row in done(settling)]))
    if feed.done_to:
        connection.defer(FORGET_DONE, (feed.id, settling.mark, mine.array))
    if settling.retried:
        connection.catch_up()
        positions = list(settling.retried)
        keys = encoded(settling.retried.values())
        connection.run(KEEP_DONE, (feed.id, positions))
        connection.run(FORGET, (feed.id, positions))
        connection.run(RELEASE_NEXT, {"feed": feed.id, "keys": keys})
        settling.known["held"] = {key.decode() for (key,) in connection.run(STILL_HELD, (feed.id, keys)).fetchall()}
        settling.known["outlook"] = outlook(connection, feed, mine)


def outlook(connection: Connection, feed: Feed, mine: Mine) -> Outlook:
    """How the exceptions of a feed look now."""
    return seen(connection.run(STATES, (feed.id, mine.array)).fetchall())


def seen(rows: Sequence[Row]) -> Outlook:
    """The outlook that rows of STATES tell."""
    states: dict[int, float] = {state: due for state, due in rows}  # noqa: C416 - rows have no type of their own
    return Outlook(4 in states, min(states.values(), default=None))


def encoded(keys: Any) -> list[bytes]:
    """Keys as they are kept."""
    return [key.encode() for key in keys if key is not None]
