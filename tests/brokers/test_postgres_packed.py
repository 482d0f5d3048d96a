"""Packed columns are read by the server as psycopg's lists are."""

import psycopg
import pytest

from tidings.pg import packed


@pytest.mark.parametrize(
    ("pack", "kind", "values"),
    [
        (packed.texts, "text", ["", "a", "ü", "x" * 1000]),
        (packed.texts, "text", ["same", "size"]),
        (packed.texts, "text", []),
        (packed.blobs, "bytea", [b"", None, b"\x00\xff", b"x" * 1000]),
        (packed.blobs, "bytea", [None, None]),
        (packed.blobs, "bytea", [b"a", b"b"]),
        (packed.blobs, "bytea", [b"", b""]),
        (packed.floats, "float8", [0.0, -1.5, 1e300, 1_767_225_600.123456]),
        (packed.smalls, "smallint", [0, 15, -32768, 32767]),
        (packed.longs, "bigint", [0, -1, 2**63 - 1, -(2**63)]),
        (packed.longs, "bigint", []),
    ],
)
def test_what_is_packed_arrives(empty_database: str, pack: object, kind: str, values: list[object]) -> None:
    assert callable(pack)
    with psycopg.connect(empty_database) as connection:
        packed.register(connection)
        row = connection.execute(f"SELECT %s::{kind}[]".encode(), (pack(values),), binary=True).fetchone()
        assert row == (values,)
