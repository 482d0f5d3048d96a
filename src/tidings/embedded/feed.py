"""One topic as a member of a group reads it: what it is lent, and what settling that means in the file.

The statements of `group.py` are here as well, beside the state that they keep.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from tidings.broker import Delivery

COLUMNS = "pos, part, id, nullif(type, ?), key, time, nullif(headers, ?), body"
"""With the type and the headers of a Shape: what they are most times, NULL says as much in half the time."""
FETCH = f"""SELECT {COLUMNS} FROM tidings_log
    WHERE topic = ? AND pos > ?{{parts}} ORDER BY pos LIMIT ?"""
SCAN = f"""SELECT {COLUMNS} FROM tidings_log NOT INDEXED
    WHERE topic = ? AND pos > ? AND pos <= ?{{parts}} ORDER BY pos LIMIT ?"""
SETTLE = "UPDATE tidings_position SET pos = ? WHERE feed = ? AND pos < ?{parts}"
STATES = "SELECT state, min(due) FROM tidings_ack WHERE feed = ?{parts} AND state IN (1, 4) GROUP BY state"
EXCEPTIONS = """SELECT a.pos, a.tries + 1, l.part, l.id, l.type, l.key, l.time, l.headers, l.body
    FROM tidings_ack a JOIN tidings_log l ON l.pos = a.pos
    WHERE a.feed = ? AND a.state = ? AND a.due <= ?{parts} ORDER BY a.pos LIMIT ?"""
LEND = "UPDATE tidings_ack SET state = 3, tries = ? WHERE feed = ? AND pos = ? AND state IN (1, 4)"
PARK = "INSERT OR IGNORE INTO tidings_ack (feed, pos, part, state, tries, due, key) VALUES (?, ?, ?, ?, ?, ?, ?)"
AGAIN = """INSERT INTO tidings_ack (feed, pos, part, state, tries, due, key) VALUES (?, ?, ?, 1, ?, ?, ?)
    ON CONFLICT DO UPDATE SET state = 1, due = excluded.due, tries = excluded.tries"""
HOLD_LATER = """UPDATE tidings_ack SET state = 2, tries = tries - (state = 3)
    WHERE feed = ? AND key = ? AND pos > ? AND state IN (1, 3, 4)"""
KEEP_DONE = """UPDATE tidings_ack SET state = 0, key = NULL WHERE feed = ? AND pos = ?
    AND pos > (SELECT p.pos FROM tidings_position p WHERE p.feed = tidings_ack.feed AND p.part = tidings_ack.part)"""
FORGET = "DELETE FROM tidings_ack WHERE feed = ? AND pos = ? AND state != 0"
FORGET_DONE = "DELETE FROM tidings_ack WHERE feed = ? AND state = 0 AND pos <= ?{parts}"
RELEASE_NEXT = """UPDATE tidings_ack SET state = CASE WHEN tries > 0 AND due = 0 THEN 4 ELSE 1 END
    WHERE feed = :feed AND state = 2 AND pos = (SELECT min(pos) FROM tidings_ack WHERE feed = :feed AND key = :key)"""
HELD_KEYS = "SELECT DISTINCT key FROM tidings_ack WHERE feed = ? AND key IS NOT NULL AND state != 0{parts}"
EXCEPTED = "SELECT 1 FROM tidings_ack WHERE feed = ? LIMIT 1"
KNOWN_ABOVE = "SELECT pos, state FROM tidings_ack WHERE feed = ? AND pos > ?{parts}"
OWNS = "SELECT count(*) FROM tidings_part WHERE grp = ? AND owner = ?{parts}"
STILL_HELD = "SELECT 1 FROM tidings_ack WHERE feed = ? AND key = ? LIMIT 1"


BODY = itemgetter(-1)
FEW, MANY, SMALL = 16, 64, 16 << 10
"""How many rows are read between two looks at their size: many while bodies are small, of so many bytes on average."""
READ = 8 << 20
"""Bytes of bodies that are read at a time, about."""
Rows = Callable[[sqlite3.Cursor], list[Any]]


def some(cursor: sqlite3.Cursor) -> list[Any]:
    """The rows whose last column is a body, or the first of them where those are large."""
    rows: list[Any] = []
    size, slice = 0, FEW
    while size < READ and (more := cursor.fetchmany(slice)):
        rows += more
        size += sum(map(len, map(BODY, more)))
        slice = MANY if size < SMALL * len(rows) else FEW
    cursor.close()  # what is not read would keep a read transaction open
    return rows


class Mine(NamedTuple):
    """The parts that a member owns, and the SQL that says so. Whoever was fenced comes back as another member."""

    parts: list[int]
    sql: str = ""
    member: int = 0


class Loan(Delivery, frozen=True, gc=False):
    """A delivery, its receipt the position in the log, with the part that its key belongs to."""

    part: int


class Shape(NamedTuple):
    """What a record and those after it are likely to say alike: the type, and the headers as text and decoded."""

    type: str | None = None
    text: str | None = None
    headers: Mapping[str, str] = {}

    @property
    def likely(self) -> tuple[str | None, str | None]:
        """The values of COLUMNS."""
        return self.type, self.text


class Feed:
    """One topic as a group's member reads it: how far it has read, and what it has lent."""

    def __init__(self, id: int, topic: int, name: str) -> None:
        self.id = id
        self.topic = topic
        self.name = name
        self.cursor = 0
        self.shape = Shape()
        self.dense = False  # whether its records lie close together in the log
        self.ended = False  # whether the last read was for more than there was, if none was left out for its size
        self.read_to: dict[
            int, int
        ] = {}  # parts that were read beyond the cursor before the cursor went back for others
        self.lent: dict[int, Loan] = {}
        self.out: dict[int, Loan] = {}  # the same for retried ones, which are rows of tidings_ack
        self.early: set[int] = set()  # above the cursor, settled by an earlier owner or with a row of their own
        self.held: set[str] = set()  # keys that have rows in tidings_ack
        self.due: float | None = None  # when the next retried one may come; None for none
        self.suspects = False
        self.done_to = 0  # up to where there are DONE rows to forget

    def look_for(self, parts: Sequence[int], positions: dict[int, int], before: Sequence[int]) -> None:
        """Go back as far as the new ones of `parts` need; the others are not read again."""
        read_to = {part: max(self.cursor, self.read_to.get(part, 0)) for part in before}
        read_to |= {part: positions.get(part, 0) for part in parts if part not in read_to}
        self.cursor = min(read_to.values())
        self.read_to = {part: pos for part, pos in read_to.items() if pos > self.cursor}


def watermark(out: Iterable[int], cursor: int) -> int:
    """Everything up to here is settled or has a row of its own, where these positions are out."""
    return min(cursor, min(out, default=cursor + 1) - 1)
