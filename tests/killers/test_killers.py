"""Whatever an event does to the process that handles it: its attempts are counted, it is buried, the others go on."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.killers.program import DEATHS, Hit
from tests.killers.scene import Scene, playing

pytestmark = pytest.mark.crash

OTHERS = [f"other{number}" for number in range(20)]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with playing(tmp_path) as scene:
        yield scene


async def buried(scene: Scene, handler: str, how: str, settings: str = "stall = 60.0") -> dict[str, str]:
    """The letter of an event that is fatal in this way; others before and after it have been handled once."""
    await scene.publish(
        *(Hit(key=key) for key in OTHERS[:10]), Hit(key="fatal", how=how), *(Hit(key=key) for key in OTHERS[10:])
    )
    scene.start(handler, settings=settings)
    letter = await scene.letter(handler)
    await scene.until(lambda: {call.key for call in scene.calls()} >= set(OTHERS))
    return letter


def says(letter: Mapping[str, str], error: str, cause: str) -> None:
    """After exactly its attempts, and why."""
    assert (letter["deaderror"], letter["deadattempts"]) == (error, str(DEATHS))
    assert cause in letter["deadcause"]


@pytest.mark.parametrize(
    ("handler", "how", "cause"),
    [
        ("on_loop", "exit", "exit code 9"),
        ("on_loop", "kill", "signal SIGKILL"),
        ("on_loop", "stack", "signal SIGSEGV"),
        ("on_loop", "oom", "signal SIGKILL"),
        ("with_tx", "exit", "exit code 9"),
        ("in_thread", "kill", "signal SIGKILL"),
        ("in_transaction", "exit", "exit code 9"),
        ("in_transaction", "kill", "signal SIGKILL"),
    ],
)
async def test_what_kills_its_worker_is_buried_after_its_attempts(
    scene: Scene, handler: str, how: str, cause: str
) -> None:
    letter = await buried(scene, handler, how)
    assert [call.attempt for call in scene.calls(key="fatal")] == list(range(1, DEATHS + 1))
    says(letter, "AttemptsExhausted", f"attempts 2-{DEATHS}: {cause}")


@pytest.mark.parametrize(
    ("handler", "how", "error", "cause"),
    [
        ("on_loop", "memory", "MemoryError", ""),
        ("on_loop", "recursion", "RecursionError", "maximum recursion depth"),
        ("on_loop", "system exit", "HandlerError", "SystemExit(4)"),
        ("in_thread", "system exit", "HandlerError", "SystemExit(4)"),
        ("in_transaction", "system exit", "HandlerError", "SystemExit(4)"),
        ("on_loop", "await", "HandlerTimeout", "took longer than its 0.5 s"),
    ],
)
async def test_what_can_be_caught_fails_like_anything_else_and_costs_no_worker(
    scene: Scene, handler: str, how: str, error: str, cause: str
) -> None:
    letter = await buried(scene, handler, how)
    attempts = [call.attempt for call in scene.calls(key="fatal")]
    if handler == "in_transaction":  # when it fails after it has written, its chunk runs again with savepoints
        attempts = sorted(set(attempts))
    assert attempts == list(range(1, DEATHS + 1))
    assert not scene.logged("a worker ended")
    says(letter, error, cause)


@pytest.mark.parametrize(
    ("handler", "how", "error", "cause"),
    [
        ("in_thread", "hang", "HandlerTimeout", "took longer than its 0.5 s, and hangs"),
        ("in_thread", "block", "HandlerTimeout", "took longer than its 0.5 s, and hangs"),
        ("on_loop", "swallow", "HandlerTimeout", "took longer than its 0.5 s, and hangs"),
        ("on_loop", "block", "AttemptsExhausted", "blocked the event loop for 1 s (exit code 70)"),
        ("in_transaction", "hang", "AttemptsExhausted", "held the database for more than its 0.5 s (exit code 70)"),
        ("in_transaction", "block", "AttemptsExhausted", "held the database for more than its 0.5 s (exit code 70)"),
    ],
)
async def test_what_hangs_ends_its_worker_once_an_attempt(
    scene: Scene, handler: str, how: str, error: str, cause: str
) -> None:
    letter = await buried(scene, handler, how, "stall = 1.0")
    fatal = scene.calls(key="fatal")
    assert [call.attempt for call in fatal] == list(range(1, DEATHS + 1))
    assert len({call.pid for call in fatal[:-1]}) == DEATHS - 1
    says(letter, error, cause)


async def test_a_neighbour_in_the_same_process_is_not_buried_for_what_it_has_not_done(scene: Scene) -> None:
    """Another handler, slower than the killer is quick: its first event is out at every death."""
    await scene.publish(Hit(key="fatal", how="exit"), *(Hit(key=key) for key in OTHERS))
    scene.start("on_loop beside", workers=1)
    letter = await scene.letter("on_loop")
    assert letter["deadattempts"] == str(DEATHS)
    await scene.until(lambda: {call.key for call in scene.calls("beside")} == {"fatal", *OTHERS})
    await scene.settled("beside")
    assert not scene.logged("scene.beside gave up")


async def test_a_process_that_starves_counts_the_attempt_too(scene: Scene) -> None:
    """All memory is gone and stays gone: whatever fails next is the engine's own."""
    letter = await buried(scene, "on_loop", "hoard")
    print(letter, scene.calls(key="fatal"))
    assert [call.attempt for call in scene.calls(key="fatal")] == list(range(1, DEATHS + 1))
    assert letter["deadattempts"] == str(DEATHS)
