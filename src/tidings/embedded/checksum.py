"""A checksum with every record of the log: it finds a bit that the disk has changed, which SQLite cannot.

SQLite keeps no checksums of its pages: it notices what damages its structure, not what alters a value. Here each
record carries the CRC-32 of all that was published. Who publishes pays for it, who reads does not (docs/adr/0012):
`tidings doctor` compares.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from tidings.embedded.database import damaged

COLUMNS = "topic, part, id, type, key, time, headers, body"
TABLES = {"tidings_log": "pos", "tidings_delay": "seq"}
LACKING = "SELECT count(*) = 0 FROM pragma_table_info(?) WHERE name = 'crc'"
READ = f"SELECT {{at}}, crc, {COLUMNS} FROM {{table}} NOT INDEXED WHERE {{at}} > ? ORDER BY {{at}} LIMIT 256"


class Altered(NamedTuple):
    """A record that is not what was published, by its table and its place there."""

    table: str
    place: int


def _as_kept(value: Any) -> Any:
    """What SQLite keeps of a value of a subclass. It refuses anything else, and says so better."""
    match value:
        case str():
            return "".join(value)
        case float():
            return value + 0.0
        case _:
            return None


encode = msgspec.msgpack.Encoder(enc_hook=_as_kept).encode


def checksum(row: tuple[Any, ...]) -> int:
    """Of the values of COLUMNS."""
    return crc32(encode(row))


def headers_of(text: str, pos: int, path: Path) -> dict[str, str]:
    """The headers of a record. Raises StorageBroken where they are not what was written."""
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.DecodeError, TypeError) as error:  # or no text at all
        raise damaged(path, f"the headers of record {pos} cannot be read ({error})") from error


def adapt(connection: sqlite3.Connection) -> None:
    """Give the tables of an earlier version the column. That version goes on beside us; its rows have no checksum."""
    if not _lacking(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for table in _lacking(connection):  # another process may have done it meanwhile
            connection.execute(f"ALTER TABLE {table} ADD COLUMN crc INTEGER")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _lacking(connection: sqlite3.Connection) -> list[str]:
    return [table for table in TABLES if connection.execute(LACKING, (table,)).fetchone() == (1,)]


def altered(connection: sqlite3.Connection) -> Iterator[Altered]:
    """Every record whose values do not have their checksum. Reads all, in short transactions."""
    lacking = _lacking(connection)
    for table, at in TABLES.items():
        sql, place, last = READ.format(at=at, table=table), 0, table in lacking
        while not last:
            found, last = [], True
            for row in connection.execute(sql, (place,)):
                place, last = row[0], False
                if row[1] is not None and row[1] != checksum(row[2:]):
                    found.append(Altered(table, place))
            yield from found
