"""Where the shop is: `examples.shop` in a checkout, `tidings.examples.shop` where the package is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tidings.app import App

ROOT = Path(__file__).parents[4]

CREW = {
    "till 1": ("payment", "shipping", "mail"),
    "office": ("orders", "inventory", "sales", "recommendations"),
    "till 2": ("payment", "shipping", "mail"),
}
"""The worker processes, and which services run in each: two share some, so that one can take over from the other."""


class Shop(NamedTuple):
    """The modules of the shop that have to do with the demo, and its apps."""

    apps: Sequence[App]
    history: Any
    orders: Any
    audit: Any

    def run_by(self, services: Sequence[str]) -> list[App]:
        """The apps of these services."""
        return [app for app in self.apps if app.name in services]


def find() -> Shop:
    """Import the shop."""
    if (ROOT / "examples" / "shop").is_dir() and (ROOT / "src").is_dir():
        name = "examples.shop"
        if str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))
    else:
        name = "tidings.examples.shop"
    parts = (importlib.import_module(f"{name}.{part}") for part in ("history", "orders", "audit"))
    return Shop(importlib.import_module(name).apps, *parts)
