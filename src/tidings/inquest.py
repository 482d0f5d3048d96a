"""What is known of how workers ended that were handling an event: for the letter of one that killed them.

The engine cannot see the end of its own process. Whoever keeps workers running can: it is told which suspects are being
handled, and says afterwards how their workers ended.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from itertools import groupby
from typing import Protocol

from tidings.broker import Delivery


class Inquest(Protocol):
    """Safe from any thread. An event is known by its handler and id, a try by its attempt."""

    def begins(self, handler: str, delivery: Delivery) -> None:
        """It is about to be handled again: should the process end now, it ended in this try."""
        ...

    def ends(self, handler: str, delivery: Delivery) -> None:
        """This try came to an end without harm to the process."""
        ...

    def convict(self, handler: str, delivery: Delivery, cause: str) -> None:
        """The process is about to be ended because of this try."""
        ...

    async def causes(self, handler: str, delivery: Delivery) -> Mapping[int, str]:
        """How the process ended in which tries, as far as that is known. Waits a moment for the latest."""
        ...


def manner(code: int) -> str:
    """How a process ended, by the code that its parent is given: the negative number of a signal."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def summary(causes: Mapping[int, str]) -> str:
    """Causes by attempt as text: "attempts 2-3: signal SIGKILL"; empty for none."""
    told = []
    for cause, of in groupby(sorted(causes), key=causes.__getitem__):
        attempts = list(of)
        first, last = attempts[0], attempts[-1]
        told.append(f"attempt {first}: {cause}" if first == last else f"attempts {first}-{last}: {cause}")
    return ", ".join(told)
