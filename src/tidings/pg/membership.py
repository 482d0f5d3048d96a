"""Who of a group owns which parts of the keys.

As in the embedded broker: each part of a group belongs to one member at a time, a member is a row whose id is never
used again, and that id is the fence, checked in the transaction that settles. Whoever settles holds the member's row
(FOR KEY SHARE, which a renewed lease does not wait for) until its commit; whoever takes a member's parts away deletes
that row first, and so waits for what is being settled and fences what comes later. Changes of a group's membership take
turns by the group's row. Leases are counted on the server's clock.

A member that died had been lent what lies between the position of each of its parts and its cursor. That gets rows of
its own, as suspect: see `Subscription.fetch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidings import failpoint
from tidings.pg.connection import Connection
from tidings.pg.schema import PARTS

TURN = "SELECT FROM tidings.grp WHERE id = %s FOR UPDATE"
JOIN = """INSERT INTO tidings.member (grp, process, lease)
    VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s)) RETURNING id"""
OPEN_CURSORS = "INSERT INTO tidings.cursor (member, feed, pos) SELECT %s, id, 0 FROM tidings.feed WHERE id = ANY(%s)"
HEARTBEAT = "UPDATE tidings.member SET lease = clock_timestamp() + make_interval(secs => %s) WHERE process = %s"
MEMBERS = "SELECT id, grp, process, lease::text, lease < clock_timestamp() FROM tidings.member ORDER BY id"
SILENT = "SELECT id FROM tidings.member WHERE id = %s AND lease::text = %s"
OWNERS = "SELECT grp, owner, count(*) FROM tidings.part GROUP BY grp, owner ORDER BY grp, owner"
STANDING = """SELECT (SELECT array_agg(id ORDER BY id) FROM tidings.member WHERE grp = %(group)s),
    (SELECT array_agg(part ORDER BY part) FROM tidings.part WHERE grp = %(group)s AND owner = %(member)s)"""
FREE = "SELECT part FROM tidings.part WHERE grp = %s AND owner IS NULL ORDER BY part"
CLAIM = "UPDATE tidings.part SET owner = %s WHERE grp = %s AND part = ANY(%s) AND owner IS NULL"
READ_SO_FAR = """UPDATE tidings.position p SET lent = greatest(p.lent, c.pos) FROM tidings.cursor c, tidings.part o
    WHERE c.member = %(member)s AND p.feed = c.feed AND o.grp = %(group)s AND o.owner = c.member AND p.part = o.part
    AND p.lent < c.pos"""
REWIND = "UPDATE tidings.cursor SET pos = 0 WHERE member = %(member)s"
POSITIONS = "SELECT feed, part, pos FROM tidings.position WHERE feed = ANY(%s)"
RELEASE = "UPDATE tidings.part SET owner = NULL WHERE grp = %s AND part = ANY(%s) AND owner = %s"
ADVANCE = "UPDATE tidings.position SET pos = %s WHERE feed = %s AND part = ANY(%s) AND pos < %s"

LEAVE = "DELETE FROM tidings.member WHERE id = %s RETURNING grp"
SPAN = """WITH span AS MATERIALIZED (SELECT p.feed, f.topic, p.part, p.pos AS low,
        greatest(p.pos, p.lent, coalesce(c.pos, 0)) AS high
    FROM tidings.part o JOIN tidings.feed f ON f.grp = o.grp
    JOIN tidings.position p ON p.feed = f.id AND p.part = o.part
    LEFT JOIN tidings.cursor c ON c.member = o.owner AND c.feed = f.id
    WHERE o.grp = %(group)s AND o.owner = %(member)s)"""
RETRIED_AGAIN = f"""{SPAN} UPDATE tidings.ack a SET due = 0, tries = a.tries - 1 + %(died)s,
    state = CASE WHEN %(died)s = 1 OR a.tries > 1 THEN 4 ELSE 1 END
    FROM span s WHERE a.feed = s.feed AND a.part = s.part AND a.state = 3"""
LENT_AGAIN = f"""{SPAN} INSERT INTO tidings.ack (feed, pos, part, state, tries, due, key)
    SELECT s.feed, l.pos, l.part, CASE WHEN %(died)s = 1 THEN 4 ELSE 1 END, %(died)s, 0, l.key
    FROM span s JOIN tidings.log l ON l.topic = s.topic AND l.part = s.part AND l.pos > s.low AND l.pos <= s.high
    WHERE s.high > s.low ON CONFLICT DO NOTHING"""
IN_LINE = f"""{SPAN} UPDATE tidings.ack a SET state = 2 FROM span s
    WHERE a.feed = s.feed AND a.part = s.part AND a.state IN (1, 4)
    AND EXISTS (SELECT FROM tidings.ack b WHERE b.feed = a.feed AND b.key = a.key AND b.pos < a.pos)"""
DONE_BELOW = f"""{SPAN} DELETE FROM tidings.ack a USING span s
    WHERE a.feed = s.feed AND a.part = s.part AND a.state = 0 AND a.pos <= s.high"""
SETTLED_TO = f"""{SPAN} UPDATE tidings.position p SET pos = s.high FROM span s
    WHERE p.feed = s.feed AND p.part = s.part AND p.pos < s.high"""
DISOWN = "UPDATE tidings.part SET owner = NULL WHERE owner = %(member)s"
CLOSE_CURSORS = "DELETE FROM tidings.cursor WHERE member = %(member)s"
MEMBERS_OF = "SELECT id FROM tidings.member WHERE grp = %s ORDER BY id"


def join(connection: Connection, group: int, process: str, *, lease: float, feeds: Sequence[int]) -> int:
    """A new member, which has read nothing."""
    row = connection.run(JOIN, (group, process, float(lease))).fetchone()
    assert row is not None
    connection.run(OPEN_CURSORS, (row[0], list(feeds)))
    return int(row[0])


def bury(connection: Connection, group: int, member: int, lease: str) -> None:
    """Take the parts of a dead member away, unless it has renewed the lease that was seen, and suspect what it had."""
    connection.run(TURN, (group,))
    if connection.run(SILENT, (member, lease)).fetchone() is not None:
        hand_over(connection, group, member, died=True)
        failpoint.hit("burying")


def hand_over(connection: Connection, group: int, member: int, *, died: bool) -> None:
    """Take a member's parts away. What it held gets rows of its own, of each key only the first one free to be lent."""
    connection.run(TURN, (group,))
    if connection.run(LEAVE, (member,)).fetchone() is None:
        return
    values: Mapping[str, Any] = {"group": group, "member": member, "died": int(died)}
    for step in (RETRIED_AGAIN, LENT_AGAIN, IN_LINE, DONE_BELOW, SETTLED_TO, DISOWN, CLOSE_CURSORS):
        connection.run(step, values)


def claim(
    connection: Connection, group: int, member: int, feeds: Sequence[int]
) -> tuple[list[int], dict[int, dict[int, int]]]:
    """Claim free parts up to a fair share; returns all that the member then owns, and their positions by feed.

    What it has read so far is noted for the parts that it had: its cursor goes back for those that it gets.
    """
    connection.run(TURN, (group,))
    members, owned = standing(connection.run(STANDING, {"group": group, "member": member}).fetchone())
    free = [part for (part,) in connection.run(FREE, (group,)).fetchall()]
    new = free[: max(share(members, member) - len(owned), 0)]
    if new:
        for step in (READ_SO_FAR, REWIND):
            connection.run(step, {"group": group, "member": member})
        connection.run(CLAIM, (member, group, new))
    positions: dict[int, dict[int, int]] = {feed: {} for feed in feeds}
    for feed, part, pos in connection.run(POSITIONS, (list(feeds),)).fetchall():
        positions[feed][part] = pos
    return sorted(owned + new), positions


def standing(row: tuple[Any, ...] | None) -> tuple[list[int], list[int]]:
    """The members of a group and the parts of one of them, of a row of STANDING."""
    members, owned = row or (None, None)
    return members or [], owned or []


def share(members: Sequence[int], member: int) -> int:
    """How many parts are this member's due."""
    if member not in members:
        return 0
    each, more = divmod(PARTS, len(members))
    return each + (1 if members.index(member) < more else 0)
