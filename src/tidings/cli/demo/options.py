"""What a run of the demo was asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

SPEED = 300.0
"""Orders a second where somebody watches."""


class Options(NamedTuple):
    """What was asked for."""

    orders: Path | None
    limit: int | None
    kills: int
    speed: float | None
    headless: bool
    as_json: bool
    db: Path | None
    broker: str | None
    store: str | None
    picture: Path | None

    @property
    def terminal(self) -> bool:
        """Whether there is a terminal to draw on: with --json that is where errors go."""
        return not self.headless and (sys.stderr if self.as_json else sys.stdout).isatty()

    @property
    def watched(self) -> bool:
        """Whether anything is drawn."""
        return self.terminal or self.picture is not None

    @property
    def pace(self) -> float | None:
        """Orders a second; None for as fast as it goes."""
        return self.speed or (SPEED if self.watched else None)
