"""An app with one handler that counts what it is given: enough for rows whose fault is in the disk or the file."""

from __future__ import annotations

import sqlite3

from tests.matrix.site import effect
from tidings import App, Event, Start

PAGE = "x" * 4000


class Filed(Event, name="paper.filed", key="key"):
    """A paper, with as much on it as the row needs."""

    key: str
    number: int
    text: str = ""


app = App("shop")


@app.on(Filed, start=Start.EARLIEST)
def file(filed: Filed, db: sqlite3.Connection) -> None:
    """Once each."""
    effect(db, "file", filed.key, filed.number)
