"""What the settings of a PostgreSQL server are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tidings.pg.database import DEADLINE
from tidings.survey import KILLED, MACHINE, ONCE, ORDER, POWER, REPLAY, Finding, Wish, limited

SETTINGS = """SELECT name, coalesce(reset_val, '') FROM pg_settings WHERE name IN ('server_version', 'fsync',
    'full_page_writes', 'synchronous_commit', 'synchronous_standby_names', 'wal_level', 'wal_sync_method',
    'max_connections', 'superuser_reserved_connections', 'autovacuum', 'statement_timeout', 'idle_session_timeout',
    'transaction_timeout', 'idle_in_transaction_session_timeout', 'data_checksums')"""
FACTS = """SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    (SELECT count(*) FROM pg_stat_replication), to_regnamespace('tidings') IS NOT NULL,
    has_database_privilege(current_database(), 'CREATE')"""
PROCESS = 4
"""Connections that one process of ours has at most."""
LARGEST = 1 << 30
"""Bytes of a value."""
LIMITS = ("statement_timeout", "transaction_timeout", "idle_session_timeout")
"""Milliseconds after which the server ends what may be ours; 0 for never."""

Told = Mapping[str, str]


class Facts(NamedTuple):
    """What the server knows beside its settings: connections, standbys, and whether the schema is or may be there."""

    connections: int
    standbys: int
    made: bool
    may_make: bool


def examine(told: Told, facts: Facts, wish: Wish) -> Iterator[Finding]:
    """`told` are the server's settings as the user's own role has them."""
    yield _server(told, facts)
    yield Finding(KILLED, "ok", "what was acknowledged is in the write-ahead log")
    yield _power(told)
    yield _machine(told, facts)
    yield Finding(ORDER, "ok", "a key is in one part, a part is with one member of a group at a time")
    yield Finding(ONCE, "ok", "the log keeps an id once, for as long as it keeps the event")
    yield Finding(REPLAY, "ok", "a group can go back to all that is kept; what a group has yet to do always is")
    yield _connections(told, facts)
    yield _autovacuum(told)
    yield _timeouts(told)
    yield limited(LARGEST, wish, "PostgreSQL takes no more")


def _server(told: Told, facts: Facts) -> Finding:
    name = f"PostgreSQL {told['server_version']}, wal_level {told['wal_level']}"
    if not facts.made and not facts.may_make:
        return Finding("server", "bad", f"{name}; there is no schema `tidings`, and this user may not make one",
                       "GRANT CREATE ON DATABASE to it, or let an owner start once")  # fmt: skip
    return Finding("server", "ok", name if facts.made else f"{name}; the first start makes the schema `tidings`")


def _power(told: Told) -> Finding:
    if told["fsync"] != "on":
        return Finding(POWER, "bad", "the whole database may be damaged (fsync off)", "set `fsync = on`")
    if told["full_page_writes"] != "on":
        return Finding(POWER, "bad", "a page that was half written stays so (full_page_writes off)",
                       "set `full_page_writes = on`, unless the file system itself promises whole pages")  # fmt: skip
    usual = told["synchronous_commit"]
    asked = "" if usual in ("on", "remote_apply") else f"; `synchronous_commit` is {usual} here, ours ask for on"
    return Finding(POWER, "ok", f"on the disk before it is acknowledged (fsync, full_page_writes){asked}")


def _machine(told: Told, facts: Facts) -> Finding:
    wanted = told["synchronous_standby_names"]
    if wanted and not facts.standbys:
        return Finding(MACHINE, "bad", f"no standby is connected, and commits wait for one ({wanted})",
                       "bring one back, or take it out of `synchronous_standby_names`")  # fmt: skip
    if wanted:
        return Finding(MACHINE, "ok", f"on a standby before it is acknowledged ({wanted})")
    if facts.standbys:
        return Finding(MACHINE, "warn", f"a failover to one of {facts.standbys} standbys loses what was not copied yet",
                       "name those to wait for: `synchronous_standby_names`")  # fmt: skip
    return Finding(MACHINE, "warn", "there is no standby: all lives and dies with this server's disk",
                   "add one, and name it in `synchronous_standby_names`")  # fmt: skip


def _connections(told: Told, facts: Facts) -> Finding:
    most = int(told["max_connections"]) - int(told["superuser_reserved_connections"])
    free = most - facts.connections
    detail = f"{facts.connections} of {most} are taken; a process of ours has up to {PROCESS}"
    if free < PROCESS:
        return Finding("connections", "bad", detail, "raise `max_connections`, or run fewer processes")
    if free < 5 * PROCESS:
        return Finding("connections", "warn", detail, "raise `max_connections` before you run more processes")
    return Finding("connections", "ok", detail)


def _autovacuum(told: Told) -> Finding:
    if told["autovacuum"] != "on":
        return Finding("autovacuum", "bad", "off: the tables of positions grow, and everything gets slower",
                       "set `autovacuum = on`")  # fmt: skip
    return Finding("autovacuum", "ok", "on")


def _timeouts(told: Told) -> Finding:
    short = [
        f"{name} {limit / 1000:g} s" for name in LIMITS if 0 < (limit := int(told.get(name) or 0)) < DEADLINE * 1000
    ]
    if short:
        return Finding("time limits", "warn", f"the server ends what may be ours: {', '.join(short)}",
                       f"ALTER ROLE ... SET it to 0, or to more than {DEADLINE:g} s")  # fmt: skip
    return Finding("time limits", "ok", "none of the server's; a frozen process loses its transaction after a lease")
