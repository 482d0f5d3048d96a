"""A time of day that nobody sets: retries are counted on it.

The system's clock may be set while a retry waits: back by a day, and the event and all of its key behind it would come
a day late. So what is due is counted on the monotonic clock, ahead of it by what the time of day was ahead of it when
the first process of this boot opened the file. All processes of the boot agree on that by a row.
"""

from __future__ import annotations

from collections.abc import Callable

from tidings.clock import Clock
from tidings.embedded.database import Connection

SCHEMA = "CREATE TABLE IF NOT EXISTS tidings_clock (boot TEXT PRIMARY KEY, ahead REAL NOT NULL) WITHOUT ROWID;"
AHEAD = "SELECT ahead FROM tidings_clock WHERE boot = ?"
AGREE = "INSERT OR IGNORE INTO tidings_clock (boot, ahead) VALUES (?, ?)"
FORGET = "DELETE FROM tidings_clock WHERE boot != ?"


def time_of(connection: Connection, clock: Clock, boot: str) -> Callable[[], float]:
    """Seconds since the epoch that pass evenly while the machine runs; the system's, where its boot has no name."""
    if not boot:
        return clock.now
    row = connection.execute(AHEAD, (boot,)).fetchone()
    if row is None:
        connection.execute(AGREE, (boot, clock.now() - clock.monotonic()))
        connection.execute(FORGET, (boot,))
        row = connection.execute(AHEAD, (boot,)).fetchone()
    ahead, monotonic = float(row[0]), clock.monotonic
    return lambda: monotonic() + ahead
