"""How commands speak: tables for people, JSON for programs, nothing that a payload could do to a terminal.

`emit(rows, as_json, columns=[...])` prints a list of mappings as a table or one JSON array, a single mapping as two
columns or one JSON object (call it once an event for JSON lines). `plain(text)` is text without control characters.
`progress(title, total)` is a bar on standard error, where that is a terminal.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import click
import msgspec

BLANK = re.compile(r"\s+")
WIDE = 10_000


def plain(text: str) -> str:
    """One line of text without control characters, escape sequences or what turns the direction of writing."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in BLANK.sub(" ", text))


def as_text(value: Any) -> str:
    """A value for a person to read: `-` for None, JSON for what is nested."""
    if value is None:
        return "-"
    if isinstance(value, bytes):
        return plain(value.decode("utf-8", "replace"))
    return plain(f"{value:,.6g}" if isinstance(value, float) else value if isinstance(value, str) else to_json(value))


def counted(number: int, thing: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def to_json(value: Any) -> str:
    """JSON in one line, readable in any language, with escapes for what a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, default=msgspec.to_builtins)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def emit(value: Sequence[Mapping[str, Any]] | Mapping[str, Any], as_json: bool, *, columns: Sequence[str] = ()) -> None:
    """Print rows or one object. `columns` are the keys that a table shows, in order; all by default."""
    if as_json:
        click.echo(to_json(value))
    elif isinstance(value, Mapping):
        table([{"": name, " ": value[name]} for name in columns or value], header=False)
    else:
        table(value, columns)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), *, header: bool = True) -> None:
    """Print rows as a table, numbers to the right. As wide as the terminal; in a pipe as wide as it has to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return
    drawn = Table(box=None, pad_edge=False, show_header=header, header_style="bold")
    for name in names:
        number = any(isinstance(row.get(name), int | float) for row in rows)
        drawn.add_column(Text(plain(name)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(as_text(row.get(name))) for name in names))
    Console(width=None if sys.stdout.isatty() else WIDE).print(drawn)


@contextlib.contextmanager
def progress(title: str, total: int | None = None, *, quiet: bool = False) -> Generator[Callable[[int], None]]:
    """A bar on standard error while the block lasts; call what it gives with how much has been done more.

    Nothing is shown where that is no terminal, or where it is to be `quiet`: for programs, with --json.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plain(title), total=total)
        yield lambda done: bar.update(task, advance=done)
