"""A file whose events move to another broker: what is kept of the move, and the fence that ends all work in the file.

The fence is triggers: they cost nothing before they are there, they hold for every process that has the file open, also
of an earlier version, and they are raised and lifted in one transaction with whatever else happens then. State and the
user's own tables stay free: they go on beside the other broker.
"""

from __future__ import annotations

from tidings.clock import Clock
from tidings.embedded import membership
from tidings.embedded.database import MOVED, MOVING, Connection
from tidings.embedded.membership import PARTS, Lent, Process
from tidings.errors import Closed

BEGIN = (
    "CREATE TABLE IF NOT EXISTS tidings_move (target TEXT NOT NULL, moved INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS tidings_move_feed (feed INTEGER PRIMARY KEY, pos INTEGER NOT NULL,
    ready INTEGER NOT NULL)""",
    "CREATE TRIGGER IF NOT EXISTS tidings_move_keeps BEFORE DELETE ON tidings_log BEGIN SELECT RAISE(IGNORE); END",
    """CREATE TRIGGER IF NOT EXISTS tidings_move_back AFTER UPDATE ON tidings_position WHEN NEW.pos < OLD.pos
    BEGIN INSERT OR REPLACE INTO tidings_move_feed (feed, pos, ready) VALUES (NEW.feed, -1, 0); END""",
)
"""`tidings_move_feed` says behind which position a group is to begin at the target, and whether it has; -1 where it
went back since then.

While a move is under way nothing is removed from the log: what was copied has to be there to be compared.
"""
END = (
    "DROP TRIGGER IF EXISTS tidings_move_keeps",
    "DROP TRIGGER IF EXISTS tidings_move_back",
    "DROP TABLE IF EXISTS tidings_move",
    "DROP TABLE IF EXISTS tidings_move_feed",
)
FENCED = {
    "tidings_log": ("INSERT",),
    "tidings_delay": ("INSERT", "DELETE"),
    "tidings_position": ("INSERT", "UPDATE"),
    "tidings_ack": ("INSERT", "UPDATE", "DELETE"),
    "tidings_member": ("INSERT",),
    "tidings_topic": ("INSERT", "UPDATE"),
    "tidings_feed": ("INSERT",),
}
TRIGGER = "CREATE TRIGGER tidings_fence_{name} BEFORE {action} ON {table} BEGIN SELECT RAISE(ABORT, '{told}'); END"
UP = "SELECT count(*) FROM sqlite_master WHERE name = 'tidings_fence_tidings_log_insert'"
STATE = "SELECT target, moved FROM tidings_move"
KNOWN = "SELECT count(*) FROM sqlite_master WHERE name = 'tidings_move'"


def state(connection: Connection) -> tuple[str, bool] | None:
    """Where the events of the file move to, and whether that is final; None where they stay."""
    if connection.execute(KNOWN).fetchone() == (0,):
        return None
    row = connection.execute(STATE).fetchone()
    return None if row is None else (row[0], bool(row[1]))


def begin(connection: Connection, target: str) -> None:
    """In a transaction: a move begins, or goes on. A fence that was left behind is lifted."""
    for statement in BEGIN:
        connection.execute(statement)
    lift(connection)
    if connection.execute(STATE).fetchone() is None:
        connection.execute("INSERT INTO tidings_move (target, moved) VALUES (?, 0)", (target,))


def drain(connection: Connection, process: Process, lease: float) -> None:
    """In a transaction: ask all members to finish what they have, and to take no more.

    Members share the parts of a group in the order of their ids: whoever comes before all others, so often that no part
    is left for them, makes them let go in an orderly way. These have no parts, and are buried when `process` dies.
    """
    for (group,) in connection.execute("SELECT id FROM tidings_group").fetchall():
        (first,) = connection.execute("SELECT min(0, coalesce(min(id), 0)) FROM tidings_member").fetchone()
        rows = [(first - number, group, process.name, lease) for number in range(1, PARTS + 1)]
        connection.executemany("INSERT INTO tidings_member (id, grp, process, lease) VALUES (?, ?, ?, ?)", rows)


def undrain(connection: Connection, process: Process) -> None:
    """In a transaction: the members may go on."""
    connection.execute("DELETE FROM tidings_member WHERE process = ?", (process.name,))


def busy(connection: Connection) -> int:
    """How many parts are with members that live."""
    sql = (
        """SELECT m.process, count(*) FROM tidings_part p JOIN tidings_member m ON m.id = p.owner GROUP BY m.process"""
    )
    return sum(count for process, count in connection.execute(sql) if not Process.dead(process))


def raise_(connection: Connection, lent: Lent, clock: Clock, *, told: str) -> None:
    """In a transaction: from its commit on nothing is published or settled in the file; whoever tries is `told`."""
    now = clock.monotonic()
    for member, _, process, lease in connection.execute(membership.MEMBERS).fetchall():
        membership.hand_over(connection, member, lent, died=lease < now or Process.dead(process))
    _fence(connection, f"{MOVING}: {told}")


def finish(connection: Connection, told: str) -> None:
    """In a transaction: the move is final; whoever goes to the file for events is `told` where they are.

    Raises Closed where the fence is not up any more: somebody has given the move up.
    """
    if connection.execute(UP).fetchone() == (0,):
        raise Closed("the move was given up meanwhile; nothing has moved")
    lift(connection)
    _fence(connection, f"{MOVED}: {told}")
    connection.execute("UPDATE tidings_move SET moved = 1")


def lift(connection: Connection) -> None:
    """In a transaction: work may go on in the file."""
    for table, actions in FENCED.items():
        for action in actions:
            connection.execute(f"DROP TRIGGER IF EXISTS tidings_fence_{table}_{action.lower()}")


def end(connection: Connection) -> None:
    """In a transaction: the move is given up, nothing of it remains in the file."""
    lift(connection)
    for statement in END:
        connection.execute(statement)


def _fence(connection: Connection, told: str) -> None:
    quoted = told.replace("'", "''")
    for table, actions in FENCED.items():
        for action in actions:
            name = f"{table}_{action.lower()}"
            connection.execute(TRIGGER.format(name=name, action=action, table=table, told=quoted))
