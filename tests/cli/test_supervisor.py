"""Backoff, exit codes and watching files: the parts of `tidings run --workers` that need no app."""

import asyncio
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tidings.cli.reload import changes
from tidings.cli.supervisor import Supervisor, verdict


def program(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def write(name: str) -> None:
    Path(name).write_text("1")


def read(name: str) -> str:
    return Path(name).read_text()


async def run_for(supervisor: Supervisor, seconds: float) -> int:
    asyncio.get_running_loop().call_later(seconds, os.kill, os.getpid(), signal.SIGTERM)
    return await supervisor.run()


async def test_a_worker_that_dies_at_once_is_started_again_ever_more_slowly() -> None:
    dies = program("import time; open('starts', 'a').write(f'{time.monotonic()}\\n'); raise SystemExit(1)")

    assert await run_for(Supervisor(lambda index: dies, workers=1), 1.3) == 1

    starts = [float(line) for line in read("starts").splitlines()]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert 2 <= len(pauses) <= 3
    assert pauses[0] >= 0.1
    assert pauses[1] >= 0.2


async def test_what_cannot_be_is_not_tried_again() -> None:
    refuses = program("open('starts', 'a').write('x'); raise SystemExit(2)")

    began = time.monotonic()
    assert await Supervisor(lambda index: refuses, workers=1).run() == 2
    assert read("starts") == "x"
    assert time.monotonic() - began < 5


async def test_a_command_that_does_not_exist_is_tried_again_until_the_end() -> None:
    assert await run_for(Supervisor(lambda index: ["./missing"], workers=1), 0.3) == 1


async def test_each_worker_has_its_own_command() -> None:
    def command(index: int) -> list[str]:
        return program(f"import time; open('worker{index}', 'w'); time.sleep(60)")

    assert await run_for(Supervisor(command, workers=2), 0.5) == 0
    assert sorted(os.listdir()) == ["worker0", "worker1"]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([0, 3], 3),
        ([1, 3], 3),
        ([0, -signal.SIGKILL], 3),
        ([0, 1], 1),
        ([70, 0], 1),
        ([2, -signal.SIGTERM], 2),
        ([0, -signal.SIGTERM], 0),
        ([130, 0], 0),
    ],
)
def test_the_exit_code_of_all_is_0_only_if_nothing_was_given_up(codes: list[int], expected: int) -> None:
    assert verdict(codes) == expected


async def test_changed_new_and_removed_python_files_are_seen_and_others_not() -> None:
    write("a.py")
    write("b.py")
    seen = changes(lambda: ["."], every=0.01)

    async def change() -> list[str]:
        async with asyncio.timeout(60):
            return await anext(seen)

    looking = asyncio.create_task(change())
    await asyncio.sleep(0.05)
    write("notes.txt")
    await asyncio.sleep(0.05)
    assert not looking.done()
    os.utime("a.py", (1, 1))
    assert await looking == ["a.py"]
    os.unlink("b.py")
    assert await change() == ["b.py"]
    write("c.py")
    assert await change() == ["c.py"]


async def test_a_folder_that_is_new_to_the_watch_has_not_changed() -> None:
    os.mkdir("sub")
    write("sub/a.py")
    folders = ["gone"]
    seen = changes(lambda: folders, every=0.01)

    async with asyncio.timeout(60):
        looking = asyncio.create_task(anext(seen))
        await asyncio.sleep(0.05)
        folders.append("sub")
        await asyncio.sleep(0.05)
        assert not looking.done()
        os.unlink("sub/a.py")
        assert await looking == ["a.py"]
