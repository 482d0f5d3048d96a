"""15: a handler that never ends, on the loop, in a thread or in the transaction; and a worker that stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.killers.program import DEATHS, LIMIT, Hit
from tests.killers.scene import Scene, now, playing
from tests.matrix import Figures, Row

LEASE = 2.0
STALL = 1.0
HANGS = {
    "on_loop await": ("HandlerTimeout", f"took longer than its {LIMIT:g} s"),
    "on_loop block": ("AttemptsExhausted", "blocked the event loop for"),
    "in_thread hang": ("HandlerTimeout", "and hangs"),
    "in_transaction hang": ("AttemptsExhausted", "held the database for more than"),
}


async def run(folder: Path) -> Figures:
    """Each way to hang in a folder of its own, beside the others: they mostly wait."""
    took: dict[str, float] = {}

    async def one_by_one(*ways: str) -> None:
        for what in ways:
            took[what] = await hang(folder, what)

    async with asyncio.TaskGroup() as group:
        group.create_task(one_by_one("in_thread hang"))
        group.create_task(one_by_one("on_loop block", "in_transaction hang"))
        await one_by_one("on_loop await")
        takeover = await stand_still(folder / "stopped")
    return {
        **{f"{what}, buried after, s": took[what] for what in HANGS},
        "attempts each": DEATHS,
        "worker stopped, taken over after, s": takeover,
        "late commits fenced": 1,
        "effects": 1,
    }


async def hang(folder: Path, what: str) -> float:
    """Seconds from the first call to the letter."""
    handler, how = what.split()
    async with playing(folder / handler / how) as scene:
        await scene.publish(Hit(key="fatal", how=how), *(Hit(key=f"other{n}") for n in range(10)))
        scene.start(handler, settings=f"stall = {STALL}")
        letter = await scene.letter(handler)
        ended = now()
        await scene.settled(handler)
        calls = scene.calls(key="fatal")
        assert [call.attempt for call in calls] == list(range(1, DEATHS + 1)), calls
        assert (letter["deaderror"], letter["deadattempts"]) == (HANGS[what][0], str(DEATHS)), letter
        assert HANGS[what][1] in letter["deadcause"], letter
        assert len({call.key for call in scene.calls()}) == 11, "the others were handled"
        return ended - calls[0].at


async def stand_still(folder: Path) -> float:
    """SIGSTOP for twice its lease while a handler is in it: another takes over, and what it commits late is fenced."""
    async with playing(folder) as scene:
        await scene.publish(Hit(key="slow", how="pause", seconds=0.3))
        scene.start("with_tx", settings=f"lease = {LEASE}")
        await scene.until(lambda: scene.calls(key="slow"))
        (first,) = scene.calls(key="slow")
        os.kill(first.pid, signal.SIGSTOP)
        stopped = now()
        try:
            await scene.until(lambda: len(scene.calls(key="slow")) == 2)
            second = scene.calls(key="slow")[-1]
            await scene.settled("with_tx")
            await scene.until(lambda: now() > stopped + 2 * LEASE)
        finally:
            os.kill(first.pid, signal.SIGCONT)
        await scene.until(lambda: scene.logged("lost its parts"))
        assert (second.attempt, second.pid == first.pid) == (2, False)
        assert await scene.count("slow") == 1, "the late commit was not kept"
        await go_on(scene)
        return second.at - stopped


async def go_on(scene: Scene) -> None:
    """Both workers do."""
    await scene.publish(*(Hit(key=f"later{n}") for n in range(20)))
    await scene.settled("with_tx")
    assert len([call for call in scene.calls() if call.key.startswith("later")]) == 20


ROW = Row(
    "15",
    "a handler awaits for ever, blocks the event loop, hangs in a thread or in the transaction; SIGSTOP of a worker "
    "for twice its lease, then SIGCONT",
    "a time limit ends what can be cancelled, the process ends for what cannot; each is buried after its attempts, "
    "with its cause. A worker that stood still is taken over, and its late commit is fenced: one effect",
    run,
)
