"""14: an event that always raises, or kills its process. It is buried after its attempts, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.killers.program import DEATHS, Hit
from tests.killers.scene import Scene, now, playing
from tests.matrix import Figures, Row

HANDLER = "on_loop"
POISONS = {
    "raise": ("ValueError", "a planned failure"),
    "recursion": ("RecursionError", "maximum recursion depth"),
    "exit": ("AttemptsExhausted", f"attempts 2-{DEATHS}: exit code 9"),
    "stack": ("AttemptsExhausted", f"attempts 2-{DEATHS}: signal SIGSEGV"),
}
EVERY = 0.02


async def run(folder: Path) -> Figures:
    """One poison after another, while others come all the time."""
    async with playing(folder) as scene:
        scene.start(HANDLER)
        await scene.listening(2)
        async with others(scene) as told:
            buried = [await poison(scene, how) for how in POISONS]
        await scene.settled(HANDLER)
    calls = {call.key: call for call in scene.calls() if call.key in told}
    assert calls.keys() == told.keys(), "every other event was handled"
    delays = sorted(calls[key].at - at for key, at in told.items())
    return {
        "attempts each": DEATHS,
        "workers lost": len(scene.logged("a worker ended")),
        "buried after, s": f"{min(buried):.2g} to {max(buried):.2g}",
        "others meanwhile": len(told),
        "their delay, s, p50": delays[len(delays) // 2],
        "max": delays[-1],
    }


async def poison(scene: Scene, how: str) -> float:
    """Seconds until it is buried, with its cause, after exactly its attempts."""
    began = now()
    await scene.publish(Hit(key=how, how=how))
    error, cause = POISONS[how]
    async with scene.letters(HANDLER) as first:
        letter = (await first([*POISONS].index(how) + 1))[-1]
    assert (letter.key, letter.headers["deaderror"]) == (how, error), letter.headers
    assert cause in letter.headers["deadcause"], letter.headers
    assert letter.headers["deadattempts"] == str(DEATHS)
    assert [call.attempt for call in scene.calls(key=how)] == list(range(1, DEATHS + 1))
    return now() - began


@contextlib.asynccontextmanager
async def others(scene: Scene) -> AsyncIterator[dict[str, float]]:
    """Events of other keys, told while the block lasts, and when each was."""
    told: dict[str, float] = {}

    async def tell() -> None:
        async with scene.publisher() as publisher:
            for number in range(1_000_000):
                told[f"other{number}"] = now()
                await publisher.publish(Hit(key=f"other{number}"))
                await asyncio.sleep(EVERY)

    telling = asyncio.create_task(tell())
    try:
        yield told
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        if told:
            told.popitem()  # it may not have been told any more


ROW = Row(
    "14",
    "an event raises each time, recurses without end, calls `os._exit(9)`, overflows the C stack",
    "its attempts are counted before it is handled, and exact after each death; then it is a dead letter that says how "
    "its workers ended; every other event is handled",
    run,
)
