"""16: no memory for a handler, for its whole process, or killed by the kernel for it. Never acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.killers.program import DEATHS, Hit
from tests.killers.scene import KILLED, now, playing
from tests.matrix import Figures, Row

WAYS = {"memory": "MemoryError", "hoard": "", "oom": "AttemptsExhausted"}
"""What the letter says; of a process that starves, what fails first is not for us to know."""


async def run(folder: Path) -> Figures:
    """Each in a folder of its own."""
    took = await asyncio.gather(*(starve(folder / how, how) for how in WAYS))
    return {
        "attempts each": DEATHS,
        "acknowledged unhandled": 0,
        **{f"{how}, buried after, s": seconds for how, seconds in zip(WAYS, took, strict=True)},
    }


async def starve(folder: Path, how: str) -> float:
    """Seconds from the first call to the letter."""
    async with playing(folder) as scene:
        await scene.publish(Hit(key="fatal", how=how), *(Hit(key=f"other{n}") for n in range(10)))
        scene.start("with_tx", settings="stall = 60.0")  # no time limit: taking all memory is long on a loaded machine
        letter = await scene.letter("with_tx")
        ended = now()
        calls = scene.calls(key="fatal")
        assert [call.attempt for call in calls] == list(range(1, DEATHS + 1)), calls
        assert letter["deadattempts"] == str(DEATHS), letter
        assert WAYS[how] in letter["deaderror"], letter
        assert (how == "oom") == (KILLED in letter["deadcause"]), letter
        await scene.until(lambda: len({call.key for call in scene.calls()}) == 11)
        return ended - calls[0].at


ROW = Row(
    "16",
    "`MemoryError` in a handler under a limit of its process; a process with no memory left; SIGKILL as the kernel "
    "does it that is out of memory",
    "never acknowledged: tried again by policy, and buried with its cause after exactly its attempts; the others go on",
    run,
)
