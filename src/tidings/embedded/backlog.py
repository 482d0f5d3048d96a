"""How far a group is behind on a topic of the embedded log.

What lies beyond the foremost part is counted on the index alone (a million in some tens of milliseconds); only the
short stretch between the hindmost part and the foremost is counted part by part.
"""

from __future__ import annotations

from tidings.broker import Lag
from tidings.embedded.database import Connection

FEED = """SELECT f.id, f.topic, min(p.pos), max(p.pos) FROM tidings_feed f JOIN tidings_position p ON p.feed = f.id
    WHERE f.topic = (SELECT id FROM tidings_topic WHERE name = ?)
    AND f.grp = (SELECT id FROM tidings_group WHERE name = ?)"""
BETWEEN = """SELECT count(*), min(l.time) FROM tidings_log l
    JOIN tidings_position p ON p.feed = :feed AND p.part = l.part
    WHERE l.topic = :topic AND l.pos > :low AND l.pos <= :high AND l.pos > p.pos"""
BEYOND = "SELECT count(*), min(pos) FROM tidings_log INDEXED BY tidings_log_topic WHERE topic = ? AND pos > ?"
EXCEPTED = """SELECT count(*) FILTER (WHERE a.state != 0), count(*) FILTER (WHERE a.pos > p.pos),
    min(a.pos) FILTER (WHERE a.state != 0) FROM tidings_ack a
    JOIN tidings_position p ON p.feed = a.feed AND p.part = a.part WHERE a.feed = ?"""
TIME = "SELECT time FROM tidings_log WHERE pos = ?"


def lag(connection: Connection, topic: str, group: str, now: float) -> Lag:
    """Records not yet acknowledged and the age of the oldest; unknown where there is no such group on the topic."""
    connection.execute("BEGIN")
    try:
        feed, topic_id, low, high = connection.execute(FEED, (topic, group)).fetchone()
        if feed is None:
            return Lag(None, None)
        values = {"feed": feed, "topic": topic_id, "low": low, "high": high}
        behind, oldest = connection.execute(BETWEEN, values).fetchone()
        beyond, first = connection.execute(BEYOND, (topic_id, high)).fetchone()
        excepted, beyond_position, first_excepted = connection.execute(EXCEPTED, (feed,)).fetchone()
        times = [oldest, *(_time(connection, pos) for pos in (first, first_excepted))]
    finally:
        connection.execute("COMMIT")
    waiting = behind + beyond - beyond_position + excepted  # exceptions beyond their part's position count once
    since = min((time for time in times if time is not None), default=None)
    return Lag(waiting, max(now - since, 0.0) if waiting and since is not None else 0.0)


def _time(connection: Connection, pos: int | None) -> float | None:
    row = None if pos is None else connection.execute(TIME, (pos,)).fetchone()
    return None if row is None else float(row[0])
