"""Named places in the engine at which a crash test ends or stops the process.

`TIDINGS_FAILPOINT=committed:17=kill` kills the process, as the kernel does when memory runs out, when it passes the
place `committed` for the 17th time; `stop` freezes it instead. The variable is read once, when the first place is
passed. Without it a place costs the call of an empty function.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable

from tidings.errors import ConfigError

VARIABLE = "TIDINGS_FAILPOINT"
FORM = re.compile(r"(\w+):([1-9]\d*)=(kill|stop)")


def armed(text: str) -> Callable[[str], None]:
    """A `hit` that obeys `place:passage=action`. Raises ConfigError for anything else."""
    parsed = FORM.fullmatch(text)
    if parsed is None:
        raise ConfigError(f"{VARIABLE}={text!r} is not of the form place:passage=kill, or =stop.")
    wanted, passage, action = parsed[1], int(parsed[2]), getattr(signal, f"SIG{parsed[3].upper()}")
    passages = itertools.count(1)

    def hit(place: str) -> None:
        if place == wanted and next(passages) == passage:
            os.kill(os.getpid(), action)

    return hit


def _ignore(place: str) -> None:
    pass


def _read(place: str) -> None:
    global hit  # noqa: PLW0603 - what is decided once, at the first place, must cost the later ones nothing
    text = os.environ.get(VARIABLE, "")
    hit = armed(text) if text else _ignore
    hit(place)


hit: Callable[[str], None] = _read
"""Pass a place, by its name."""
