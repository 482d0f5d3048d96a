"""How a command that works for a while hears that it is to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def on_stop(told: Callable[[], object]) -> None:
    """From now on SIGTERM and Ctrl-C call `told` in the running event loop, each time, until that is closed."""
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, told)
