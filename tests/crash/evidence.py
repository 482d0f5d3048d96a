"""What a run has left behind: journals, effects, dead letters, what is pending. Read with SQL, not by the engine."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.crash.journal import read
from tests.crash.plan import Plan
from tests.crash.service import SHARED

# Everything but the open dead letters, which nobody works off.
FEEDS = """(SELECT f.id, f.topic FROM tidings_feed f JOIN tidings_group g ON g.id = f.grp
    WHERE g.name NOT LIKE 'operator.%')"""
PENDING = f"""SELECT
    (SELECT count(*) FROM {FEEDS} f JOIN tidings_position p ON p.feed = f.id
        JOIN tidings_log l ON l.topic = f.topic AND l.part = p.part AND l.pos > p.pos
        WHERE NOT EXISTS (SELECT 1 FROM tidings_ack a WHERE a.feed = f.id AND a.pos = l.pos))
    + (SELECT count(*) FROM {FEEDS} f JOIN tidings_ack a ON a.feed = f.id WHERE a.state != 0)
    + (SELECT count(*) FROM tidings_delay)"""
DEAD = """SELECT l.headers, l.type, l.body FROM tidings_log l JOIN tidings_topic t ON t.id = l.topic
    WHERE t.name LIKE 'dead.%' ORDER BY l.pos"""
ACCOUNT_OF_TYPE = {"shipment.shipped": "shipped", "label.printed": "printed"}
ACCOUNT_OF_HANDLER = {"crash.relay": "shipped", "crash.press": "printed"}


class Effect(NamedTuple):
    """One effect of an event. An account is what every event (of a kind) has to have one effect in."""

    account: str
    number: int
    key: str = ""
    pid: int = 0
    at: float = 0.0


class Fault(NamedTuple):
    """A process died, or was told to stop."""

    kind: str
    pid: int
    at: float


class Evidence(msgspec.Struct, kw_only=True):
    """All there is to judge a run by. `effects` are in the order of their commits, at least within account and key."""

    attempted: set[int] = msgspec.field(default_factory=set)
    acked: set[int] = msgspec.field(default_factory=set)
    effects: list[Effect] = msgspec.field(default_factory=list)
    dead: Counter[tuple[str, int]] = msgspec.field(default_factory=Counter)
    starts: Counter[tuple[str, int]] = msgspec.field(default_factory=Counter)
    shared: list[int] = msgspec.field(default_factory=list)
    pending: int = 0
    faults: list[Fault] = msgspec.field(default_factory=list)
    crashes: list[str] = msgspec.field(default_factory=list)
    integrity: str = "ok"
    drained: float | None = None
    seconds: float = 0.0


def pending(database: Path) -> int:
    """How many deliveries are still to be settled."""
    with _open(database) as connection:
        return int(connection.execute(PENDING).fetchone()[0])


def collect(plan: Plan, folder: Path) -> Evidence:
    """Read what the processes have left in the run's folder."""
    evidence = Evidence()
    for index in range(plan.publishers):
        attempted, acked = read(folder / f"journal-{index}")
        evidence.attempted |= attempted
        evidence.acked |= acked
    for line in (folder / "starts").read_text().splitlines():
        account, number, _ = line.split()
        evidence.starts[account, int(number)] += 1
    with _open(folder / "tidings.db") as connection:
        evidence.effects = [*_recorded(connection), *_tallied(connection)]
        for headers, type, body in connection.execute(DEAD):
            handler = msgspec.json.decode(headers)["deadhandler"]
            account = ACCOUNT_OF_HANDLER.get(handler) or ACCOUNT_OF_TYPE.get(type) or handler.removeprefix("crash.")
            evidence.dead[account, msgspec.json.decode(body)["number"]] += 1
        for (value,) in connection.execute("SELECT value FROM tidings_row WHERE key = ?", (SHARED,)):
            evidence.shared = msgspec.msgpack.decode(value)
        evidence.pending = int(connection.execute(PENDING).fetchone()[0])
        evidence.integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
    return evidence


def _open(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def _recorded(connection: sqlite3.Connection) -> list[Effect]:
    rows = connection.execute("SELECT account, number, key, pid, at FROM effects ORDER BY place")
    return [Effect(*row) for row in rows]


def _tallied(connection: sqlite3.Connection) -> list[Effect]:
    rows = connection.execute("SELECT key, value FROM tidings_row WHERE tbl = 'crash.tally' AND key != ?", (SHARED,))
    return [Effect("tally", number, key) for key, value in rows for number in msgspec.msgpack.decode(value)]
