"""What is left to do in a database, counted with SQL and not by the engine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tidings.chaos.embedded import Embedded


def pending(database: Path) -> int:
    """How many deliveries are still to be settled."""
    with contextlib.closing(Embedded(f"sqlite:{database}")) as site:
        return site.pending()
