"""What kills its workers is tried alone in a process before it is buried, under `tidings run` as in production."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.killers.program import DEATHS, Hit
from tests.killers.scene import Scene, playing

pytestmark = pytest.mark.crash

OTHERS = [f"other{number}" for number in range(6)]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with playing(tmp_path) as scene:
        yield scene


async def told(scene: Scene, how: str) -> None:
    """An event that is fatal in this way, among others."""
    await scene.publish(
        *(Hit(key=key) for key in OTHERS[:3]), Hit(key="fatal", how=how), *(Hit(key=key) for key in OTHERS[3:])
    )


async def healed(scene: Scene) -> None:
    """It was fatal to its workers and to nobody else: it is done, once, in a process that was no worker."""
    await scene.until(
        lambda: len(scene.calls(key="fatal")) > DEATHS and {call.key for call in scene.calls()} >= {*OTHERS}
    )
    await scene.settled("alone")
    fatal = scene.calls(key="fatal")
    assert [call.attempt for call in fatal] == list(range(1, DEATHS + 2))
    assert fatal[-1].pid not in {call.pid for call in scene.calls() if call != fatal[-1]}
    assert await scene.count("fatal") == 1
    assert [await scene.count(key) for key in OTHERS] == [1] * len(OTHERS)
    assert not scene.logged("gave up")


async def test_what_is_fatal_to_workers_only_ends_well_alone(scene: Scene) -> None:
    await told(scene, "in workers")
    scene.start("alone")
    await healed(scene)


async def test_a_worker_without_a_supervisor_tries_it_alone_when_it_is_started_again(scene: Scene) -> None:
    """Whoever starts it again, such as systemd, knows nothing of the event."""
    await told(scene, "in workers")
    for _ in range(DEATHS):
        scene.start("alone", workers=1, supervised=False)
        assert await scene.ended() == 9
    scene.start("alone", workers=1, supervised=False)
    await healed(scene)
    assert scene.end() == 0


async def test_what_is_fatal_alone_too_is_buried_and_costs_no_further_worker(scene: Scene) -> None:
    await told(scene, "exit")
    scene.start("alone")
    letter = await scene.letter("alone")
    await scene.settled("alone")
    assert (letter["deaderror"], letter["deadattempts"]) == ("AttemptsExhausted", str(DEATHS + 1))
    assert "alone in a process it ended with exit code 9" in letter["deadcause"]
    assert await scene.count("fatal") is None
    assert [await scene.count(key) for key in OTHERS] == [1] * len(OTHERS)
    assert len(scene.logged("a worker ended")) == DEATHS
