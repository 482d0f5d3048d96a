"""Whatever an event does to the process that handles it: its attempts are counted, it is buried, the others go on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.killers.program import DEATHS, Hit
from tests.killers.scene import Scene

pytestmark = pytest.mark.crash

OTHERS = [f"other{number}" for number in range(20)]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.kill()


async def buried(scene: Scene, handler: str, how: str) -> dict[str, str]:
    """The letter of an event that is fatal in this way; others before and after it have been handled once."""
    await scene.publish(
        *(Hit(key=key) for key in OTHERS[:10]), Hit(key="fatal", how=how), *(Hit(key=key) for key in OTHERS[10:])
    )
    scene.start(handler)
    letter = await scene.letter(handler)
    await scene.until(lambda: {call.key for call in scene.calls()} >= set(OTHERS))
    return letter


@pytest.mark.parametrize(
    ("handler", "how", "cause"),
    [
        ("on_loop", "exit", "exit code 9"),
        ("on_loop", "kill", "signal SIGKILL"),
        ("on_loop", "stack", "signal SIGSEGV"),
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
    assert (letter["deaderror"], letter["deadattempts"]) == ("AttemptsExhausted", str(DEATHS))
    assert f"attempts 2-{DEATHS}: {cause}" in letter["deadcause"]
