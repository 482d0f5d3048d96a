"""What the groups of an embedded log have to do: now, and when next.

Delayed records and retries that are not yet due are no work for now, and neither is what waits in line behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Read = Callable[[str, Mapping[str, Any]], list[Any]]

LOG = "the log"
NEW = """SELECT g.name, count(*) FROM tidings_feed f CROSS JOIN tidings_position p ON p.feed = f.id
    JOIN tidings_group g ON g.id = f.grp
    JOIN tidings_log l INDEXED BY tidings_log_topic ON l.topic = f.topic AND l.pos > p.pos AND l.part = p.part
    WHERE EXISTS (SELECT 1 FROM tidings_log e WHERE e.topic = f.topic)
    AND NOT EXISTS (SELECT 1 FROM tidings_ack a WHERE a.feed = p.feed AND a.pos = l.pos) GROUP BY g.name"""
"""Feeds first: most are of dead letters and replays, and their topics are empty."""
AGAIN = """SELECT g.name, count(*) FROM tidings_ack a
    JOIN tidings_feed f ON f.id = a.feed JOIN tidings_group g ON g.id = f.grp
    WHERE a.state IN (3, 4) OR (a.state = 1 AND a.due <= :now)
    OR (a.state = 2 AND NOT EXISTS (
        SELECT 1 FROM tidings_ack b WHERE b.feed = a.feed AND b.key = a.key AND b.pos < a.pos))
    GROUP BY g.name"""
OVERDUE = f"SELECT '{LOG}', count(*) FROM tidings_delay WHERE due <= :now HAVING count(*) > 0"
NEXT = """SELECT min(due) FROM (SELECT min(due) AS due FROM tidings_delay
    UNION ALL SELECT min(due) FROM tidings_ack WHERE state = 1 AND due > :now)"""


def to_do(read: Read, now: float) -> dict[str, int]:
    """How many records each group has not settled and could settle now; groups with none are left out.

    Under LOG: delayed records that are due and not yet in the log.
    """
    found: dict[str, int] = {}
    for question in (NEW, AGAIN, OVERDUE):
        for group, count in read(question, {"now": now}):
            found[group] = found.get(group, 0) + count
    return found


def next_due(read: Read, now: float) -> float | None:
    """When the next delayed record or retry is due, in seconds since the epoch; None where there is none."""
    due: float | None = read(NEXT, {"now": now})[0][0]
    return due
