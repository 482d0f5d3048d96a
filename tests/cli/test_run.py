"""`tidings run` as operators know it: real processes, signals, exit codes."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tidings import App, Event

PROGRAM = """
import asyncio
import os
import time
from pathlib import Path

from tidings import App, Delivery, Event, Start


class Told(Event, name="thing.told", key="key"):
    key: str
    seconds: float = 0.0
    how: str = "wait"


app = App("shop")


def note(file: str, *what: object) -> None:
    with open(file, "a") as out:
        out.write(" ".join(map(str, what)) + "\\n")


@app.on(Told, start=Start.EARLIEST)
async def handle(event: Told, delivery: Delivery) -> None:
    note("begun", event.key, os.getpid(), delivery.attempt)
    if event.how == "wait" or (event.how == "wait once" and not Path("waited").exists()):
        Path("waited").touch()
        await asyncio.sleep(event.seconds)
    elif event.how == "block":
        ends = time.monotonic() + event.seconds
        while time.monotonic() < ends and not Path("released").exists():
            time.sleep(0.01)
    note("done", event.key, os.getpid())
"""
IN_A_THREAD = """
import time

from tidings import App, Event, Start


class Told(Event, name="thing.told", key="key"):
    key: str
    seconds: float = 0.0
    how: str = "wait"


app = App("shop")


@app.on(Told, start=Start.EARLIEST)
def handle(event: Told) -> None:
    open("begun", "a").write(f"{event.key}\\n")
    time.sleep(event.seconds)
"""


class Told(Event, name="thing.told", key="key"):
    key: str
    seconds: float = 0.0
    how: str = "wait"


class Run:
    """A `tidings run` in the working folder."""

    def __init__(self, *arguments: str) -> None:
        self.log = Path(f"log-{time.monotonic_ns()}")
        command = [sys.executable, "-m", "tidings", "run", "program:app", "--log=json", *arguments]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stderr=out)

    def logged(self, part: str) -> list[dict[str, Any]]:
        """The log lines whose message contains `part`."""
        lines = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in logged if part in line["message"]]

    def listens(self, processes: int = 1) -> None:
        until(lambda: len(self.logged("listens")) >= processes)

    def end(self, name: int = signal.SIGTERM) -> int:
        self.process.send_signal(name)
        return self.process.wait(20)

    def ends(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def run() -> Iterator[Callable[..., Run]]:
    Path("program.py").write_text(PROGRAM)
    running: list[Run] = []

    def start(*arguments: str) -> Run:
        running.append(Run(*arguments))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.wait(20)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def noted(file: str) -> list[list[str]]:
    return [line.split() for line in Path(file).read_text().splitlines()] if Path(file).exists() else []


def publish(*events: Told) -> None:
    async def tell() -> None:
        async with App("publisher") as app:
            await app.publish(*events)

    asyncio.run(tell())


def waiting() -> int | None:
    async def ask() -> int | None:
        async with App("observer") as app:
            assert app.connection is not None
            return (await app.connection.broker.lag("thing", "shop.handle")).waiting

    return asyncio.run(ask())


def free_ports(count: int) -> int:
    """The first of as many free ports in a row."""
    while True:
        sockets = [socket.socket() for _ in range(count)]
        try:
            sockets[0].bind(("127.0.0.1", 0))
            first: int = sockets[0].getsockname()[1]
            for index, other in enumerate(sockets[1:], 1):
                other.bind(("127.0.0.1", first + index))
        except OSError:
            continue
        else:
            return first
        finally:
            for one in sockets:
                one.close()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except http.client.RemoteDisconnected:  # an answer that takes a loaded machine too long is none
        return 0, ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- ending


def test_sigterm_settles_what_was_begun_hands_back_the_rest_and_exits_with_0(run: Callable[..., Run]) -> None:
    publish(*(Told(key=f"k{n}", seconds=0.15) for n in range(120)))
    first = run()
    until(lambda: len(noted("begun")) >= 16)

    assert first.end() == 0
    done = [key for key, _ in noted("done")]
    assert len(done) == len(set(done)) == len(noted("begun")) >= 16
    assert waiting() == 120 - len(done) > 0

    second = run()
    until(lambda: len(noted("done")) >= 120)
    assert second.end() == 0
    assert sorted(key for key, _ in noted("done")) == sorted(f"k{n}" for n in range(120))
    assert waiting() == 0


def test_a_handler_longer_than_the_grace_time_is_given_up_and_its_event_comes_again(run: Callable[..., Run]) -> None:
    publish(Told(key="slow", seconds=60, how="wait once"))
    first = run("--grace=0.2")
    until(lambda: noted("begun"))

    assert first.end() == 3
    assert not noted("done")
    assert waiting() == 1

    second = run()
    until(lambda: noted("done"))
    assert second.end(signal.SIGINT) == 0
    assert waiting() == 0


def test_ctrl_c_twice_ends_at_once_and_the_event_comes_again(run: Callable[..., Run]) -> None:
    publish(Told(key="slow", seconds=60))
    one = run()
    one.listens()
    until(lambda: noted("begun"))

    one.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert one.process.poll() is None
    assert one.end(signal.SIGINT) == 3
    assert waiting() == 1


# -- several workers


def test_workers_share_a_group_and_one_that_is_killed_is_replaced(run: Callable[..., Run]) -> None:
    port = free_ports(2)
    one = run("--workers=2", f"--metrics-port={port}")
    one.listens(2)
    until(lambda: get(port, "/readyz")[0] == get(port + 1, "/readyz")[0] == 200)

    told = 0
    while len({pid for _, pid in noted("done")}) < 2:
        publish(*(Told(key=f"k{n}") for n in range(told, told + 20)))
        told += 20
    until(lambda: len(noted("done")) >= told)
    assert sorted(key for key, _ in noted("done")) == sorted(f"k{n}" for n in range(told))

    publish(Told(key="last", seconds=0.5))
    until(lambda: noted("begun")[-1][0] == "last")
    os.kill(int(noted("begun")[-1][1]), signal.SIGKILL)
    until(lambda: noted("done")[-1][0] == "last")
    assert noted("begun")[-1][2] == "2", "the attempt that was killed counts"
    one.listens(3)

    assert one.end() == 0
    assert waiting() == 0


def test_workers_end_in_order_when_their_supervisor_is_killed(run: Callable[..., Run]) -> None:
    publish(Told(key="slow", seconds=0.5))
    one = run("--workers=2")
    one.listens(2)
    until(lambda: noted("begun"))
    workers = [int(line["message"].split()[1]) for line in one.logged("listens")]

    assert one.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not any(alive(pid) for pid in workers))
    assert noted("done")
    assert waiting() == 0


def test_a_thread_that_cannot_be_stopped_does_not_keep_its_process_and_the_exit_code_tells(
    run: Callable[..., Run],
) -> None:
    Path("program.py").write_text(IN_A_THREAD)
    publish(Told(key="slow", seconds=60))
    one = run("--workers=2", "--grace=0.1")
    one.listens(2)
    until(lambda: noted("begun"))

    assert one.end() == 3
    assert waiting() == 1


# -- the watchdog


def test_a_blocked_loop_is_not_ready_and_is_logged_with_its_event(run: Callable[..., Run]) -> None:
    port = free_ports(1)
    Path("tidings.toml").write_text("stall = 0.5")
    one = run(f"--metrics-port={port}")
    one.listens()
    until(lambda: get(port, "/readyz") == (200, '{"ready": true, "reasons": []}\n'))
    publish(Told(key="blocks", seconds=60, how="block"))

    until(lambda: noted("begun"))
    until(lambda: get(port, "/readyz")[0] == 503)
    assert "event loop has been blocked" in get(port, "/readyz")[1]
    until(lambda: get(port, "/metrics")[0] == 200)
    until(lambda: get(port, "/healthz")[0] == 503)
    (line,) = (line for line in one.logged("the event loop is blocked") if "event_key" in line)
    assert (line["event_key"], line["handler"], line["attempt"]) == ("blocks", "shop.handle", 1)
    assert "program.py" in line["message"]

    Path("released").touch()
    until(lambda: get(port, "/readyz")[0] == 200)
    assert one.end() == 0
    assert waiting() == 0


def test_with_stall_exit_a_blocked_process_ends_and_the_attempt_counts(run: Callable[..., Run]) -> None:
    Path("tidings.toml").write_text("stall = 0.5\nstall_exit = true")
    publish(Told(key="blocks", seconds=60, how="block"))

    assert run().ends() == 70
    run()
    until(lambda: len(noted("begun")) == 2)
    assert [attempt for _, _, attempt in noted("begun")] == ["1", "2"]


# -- reloading


def test_a_changed_file_starts_the_workers_again_and_a_broken_one_waits_for_the_next_change(
    run: Callable[..., Run],
) -> None:
    one = run("--reload")
    one.listens(1)
    Path("program.py").write_text(PROGRAM + "\nraise RuntimeError('broken')\n")
    until(lambda: one.logged("could not start"))
    assert "RuntimeError: broken" in one.log.read_text()
    Path("program.py").write_text(PROGRAM)
    one.listens(2)
    publish(Told(key="a"))
    until(lambda: noted("done"))

    assert one.end() == 0


# -- what cannot be


@pytest.mark.parametrize("workers", [1, 2])
def test_an_app_that_is_not_there_is_refused_with_a_sentence(run: Callable[..., Run], workers: int) -> None:
    Path("program.py").write_text("shop = 1")
    one = run(f"--workers={workers}")

    assert one.ends() == 2
    assert "error: program:app: 'app' in program is not there" in one.log.read_text()
    assert "Traceback" not in one.log.read_text()


def test_a_port_that_is_taken_is_refused_with_a_sentence(run: Callable[..., Run]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        one = run(f"--metrics-port={port}")

        assert one.ends() == 2
    assert f"error: cannot listen on 127.0.0.1 port {port}" in one.log.read_text()
