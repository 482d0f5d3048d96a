"""How records get their positions in the log, so that no reader ever passes one that is committed later.

Whoever appends holds the topic's lock from before its positions are taken until its transaction is committed. So the
positions of a topic become visible in their order, whatever else runs in the database, and a reader may go on from the
last one it saw. What a transaction appends is kept until all else in it is done: the lock is held for one statement and
the commit. docs/adr/0014 has what this costs, and what the alternative would.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from tidings.broker import Start
from tidings.pg.connection import Connection
from tidings.pg.packed import blobs, floats, smalls, texts

Entry = tuple[int, int, str, str, bytes | None, float, str, bytes]
"""topic, part, id, type, key, time, headers, body"""

LOCK = "SELECT pg_advisory_xact_lock(29797, %s)"
LOCKED = "WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(29797, %s))"
APPEND = f"""{LOCKED} INSERT INTO tidings.log (topic, part, id, type, key, time, headers, body)
    SELECT %s, u.* FROM locked, unnest(%s, %s, %s, %s, %s, %s, %s) u ON CONFLICT (id, topic) DO NOTHING"""
"""No row, and so no position, comes out of the join before the lock is held."""
POSTPONE = f"""{LOCKED} INSERT INTO tidings.delay (topic, part, id, type, key, time, headers, body, due)
    SELECT %s, u.* FROM locked, unnest(%s, %s, %s, %s, %s, %s, %s, %s) u ON CONFLICT (id, topic) DO NOTHING"""
DUE_TOPICS = (
    "SELECT DISTINCT topic FROM tidings.delay WHERE due <= extract(epoch FROM clock_timestamp()) ORDER BY topic"
)
MOVE_DUE = """WITH due AS (DELETE FROM tidings.delay WHERE seq IN (SELECT seq FROM tidings.delay
        WHERE topic = ANY(%s) AND due <= extract(epoch FROM clock_timestamp()) ORDER BY due, seq LIMIT 500)
        RETURNING *)
    INSERT INTO tidings.log (topic, part, id, type, key, time, headers, body)
    SELECT topic, part, id, type, key, time, headers, body FROM due ORDER BY due, seq
    ON CONFLICT (id, topic) DO NOTHING"""
NEXT_DUE = "SELECT (min(due) - extract(epoch FROM clock_timestamp()))::float8 FROM tidings.delay"
HEAD = "SELECT coalesce(max(pos), 0) FROM tidings.log WHERE topic = %s"
SINCE = "SELECT pos - 1 FROM tidings.log WHERE topic = %s AND time >= %s ORDER BY pos LIMIT 1"

TOPIC = itemgetter(0)


def statements(entries: Sequence[Entry], delayed: Sequence[tuple[float, Entry]] = ()) -> list[tuple[str, Any]]:
    """What writes at the end of the log, topic by topic in the order in which all lock them.

    An id that the topic has already is the same event and kept once. Raises UnicodeEncodeError for what is no text.
    """
    found = [(topic, APPEND, (topic, topic, *_columns(of))) for topic, of in _by_topic(entries).items()]
    for topic, later in _by_topic([entry for _, entry in delayed]).items():
        dues = floats([due for due, entry in delayed if entry[0] == topic])
        found.append((topic, POSTPONE, (topic, topic, *_columns(later), dues)))
    return [(sql, values) for _, sql, values in sorted(found, key=TOPIC)]


def append(connection: Connection, entries: Sequence[Entry], delayed: Sequence[tuple[float, Entry]] = ()) -> None:
    """Write at the end of the log, inside a transaction that has nothing else to do. Raises psycopg.DataError."""
    for sql, values in statements(entries, delayed):
        connection.run(sql, values)


def _by_topic(entries: Sequence[Entry]) -> dict[int, Sequence[Entry]]:
    if not entries:
        return {}
    first = entries[0][0]
    if entries[-1][0] == first and all(topic == first for topic in map(TOPIC, entries)):
        return {first: entries}
    found: dict[int, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry[0], []).append(entry)
    return dict(found)


def _columns(entries: Sequence[Entry]) -> tuple[Any, ...]:
    _, parts, ids, types, keys, times, headers, bodies = zip(*entries, strict=True)
    return smalls(parts), texts(ids), texts(types), blobs(keys), floats(times), texts(headers), blobs(bodies)


def move_due(connection: Connection) -> list[int]:
    """Give what is due its place in the log; returns the topics that have grown."""
    topics = [topic for (topic,) in connection.run(DUE_TOPICS).fetchall()]
    for topic in topics:
        connection.run(LOCK, (topic,))
    if topics:
        connection.run(MOVE_DUE, (topics,))
    return topics


def position(connection: Connection, topic: int, start: Start | float) -> int:
    """The position before the first record that a reader from `start` gets."""
    if start is Start.EARLIEST:
        return 0
    found = (
        None
        if start is Start.LATEST
        else connection.run(SINCE, (topic, float(start.value if isinstance(start, Start) else start))).fetchone()
    )
    found = found or connection.run(HEAD, (topic,)).fetchone()
    return int(found[0]) if found else 0
