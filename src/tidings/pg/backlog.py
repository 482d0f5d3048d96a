"""How far a group is behind on a topic.

What lies beyond the foremost part is counted on the index alone; only the short stretch between the hindmost part and
the foremost is counted part by part.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidings.broker import Lag
from tidings.pg.connection import Row

LAG = """WITH feed AS MATERIALIZED (SELECT f.id, f.topic, min(p.pos) AS low, max(p.pos) AS high
        FROM tidings.feed f JOIN tidings.position p ON p.feed = f.id
        WHERE f.topic = (SELECT id FROM tidings.topic WHERE name = %(topic)s)
        AND f.grp = (SELECT id FROM tidings.grp WHERE name = %(group)s) GROUP BY f.id, f.topic),
    between_parts AS (SELECT count(*) AS count, min(l.time) AS oldest FROM feed
        JOIN tidings.log l ON l.topic = feed.topic AND l.pos > feed.low AND l.pos <= feed.high
        JOIN tidings.position p ON p.feed = feed.id AND p.part = l.part AND l.pos > p.pos),
    beyond AS (SELECT count(*) AS count, min(l.pos) AS first FROM feed
        JOIN tidings.log l ON l.topic = feed.topic AND l.pos > feed.high),
    excepted AS (SELECT count(*) FILTER (WHERE a.state != 0) AS count,
            count(*) FILTER (WHERE a.pos > p.pos) AS twice, min(a.pos) FILTER (WHERE a.state != 0) AS first
        FROM feed JOIN tidings.ack a ON a.feed = feed.id
        JOIN tidings.position p ON p.feed = a.feed AND p.part = a.part)
    SELECT n.count + b.count - e.twice + e.count, least(n.oldest,
        (SELECT time FROM tidings.log l WHERE l.topic = feed.topic AND l.pos = b.first),
        (SELECT time FROM tidings.log l WHERE l.topic = feed.topic AND l.pos = e.first))
    FROM feed, between_parts n, beyond b, excepted e"""


def of(rows: Sequence[Row], now: float) -> Lag:
    """What a row of LAG means; unknown where there is none."""
    if not rows:
        return Lag(None, None)
    waiting, since = rows[0]
    return Lag(waiting, max(now - since, 0.0) if waiting and since is not None else 0.0)
