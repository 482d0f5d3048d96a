"""Apache Kafka itself: one KRaft broker, which is its own controller, run by this machine's Java from fetched jars."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tidings.dev.server import TAIL, Server, free_port
from tidings.errors import BrokerError

JAVA = 17
"""The oldest Java that a Kafka 4 broker runs on."""
JVM = ["-Xms256m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
QUIET = ["-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
API_VERSIONS = 18
INSTALL = "tidings dev install kafka"


class Kafka(Server):
    """A Kafka broker as it comes, with a replication of 1: what it acknowledged survives its death, not a power cut.

    `settings` are those of server.properties: `{"log.flush.interval.messages": "1"}` makes it survive that too.
    """

    kind = "kafka"
    usual_port = 9092
    patience = 120.0
    packages = {"java": "default-jre-headless", "mvn": "maven"}  # noqa: RUF012

    def __init__(self, folder: Path | None = None, *, port: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(folder, port=port, settings=settings)
        self._controller = free_port()
        self._led: tuple[int, int] | None = None

    def lead(self, port: int) -> int:
        """See Server.lead: a listener of its own, since a broker tells its clients where they have to go on."""
        self._led = (free_port(), port)
        return self._led[0]

    @classmethod
    def needs(cls) -> str | None:
        """What is missing."""
        if _java() < JAVA:
            return f"Kafka needs Java {JAVA} or newer: apt-get install default-jre-headless"
        return None if jars().is_dir() else f"Apache Kafka {version()} is not here: {INSTALL}"

    @classmethod
    def fetch(cls) -> None:
        """Let Maven copy Kafka's jars to the cache, all of them or none. Raises BrokerError with what Maven said."""
        jars().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=jars().parent) as folder:
            pom, target = Path(folder, "pom.xml"), Path(folder, "jars")
            pom.write_text(_pom())
            flags = [
                "--batch-mode",
                "--quiet",
                f"--file={pom}",
                "-DincludeScope=runtime",
                f"-DoutputDirectory={target}",
            ]
            made = subprocess.run(["mvn", *flags, COPY], capture_output=True, check=False, text=True)  # noqa: S607
            if made.returncode or not target.is_dir():
                raise BrokerError(f"Maven could not fetch Kafka: {(made.stderr + made.stdout)[-TAIL:].strip()}")
            with contextlib.suppress(FileExistsError):  # somebody else was as quick
                target.rename(jars())

    @property
    def url(self) -> str:
        """The bootstrap server."""
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _prepare(self) -> None:
        super()._prepare()
        ours = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": _at(PLAINTEXT=self.port, CONTROLLER=self._controller),
            "advertised.listeners": _at(PLAINTEXT=self.port),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LED:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "log.dirs": self.folder / "data",
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 500,  # tests have short leases
            "broker.session.timeout.ms": 3000,  # who was killed may come back only when its session is over
            "broker.heartbeat.interval.ms": 500,
        }
        if self._led is not None:
            ours["listeners"] = _at(PLAINTEXT=self.port, CONTROLLER=self._controller, LED=self._led[0])
            ours["advertised.listeners"] = _at(PLAINTEXT=self.port, LED=self._led[1])
        lines = [f"{name}={value}" for name, value in (ours | self.settings).items()]
        self._properties.write_text("\n".join(lines) + "\n")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        """Give the folder an id and the features of this version, as Kafka wants before its first start."""
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        words = ["kafka.tools.StorageTool", "format", f"--cluster-id={name}", "-c", str(self._properties)]
        made = subprocess.run([*_run(), *words], capture_output=True, check=False, text=True)
        if made.returncode:
            raise BrokerError(f"Kafka's folder cannot be formatted: {(made.stderr + made.stdout)[-TAIL:].strip()}")

    def _command(self) -> list[str]:
        return [*_run(), "kafka.Kafka", str(self._properties)]

    def _greets(self, peer: socket.socket) -> bool:
        """Ask which versions it speaks; it answers clients only when it is registered and its log is recovered."""
        request = struct.pack(">hhih", API_VERSIONS, 0, 1, -1)
        peer.sendall(struct.pack(">i", len(request)) + request)
        return len(peer.recv(1024)) > 8


def _at(**listeners: int) -> str:
    """Listeners with their ports."""
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())


def version() -> str:
    """The version of Kafka that is fetched and run."""
    found = re.search(r"<kafka.version>(.+)</kafka.version>", _pom())
    assert found is not None
    return found[1]


def jars() -> Path:
    """Where its jars are, or will be: in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tidings" / f"kafka-{version()}"


def _pom() -> str:
    return (resources.files("tidings.dev") / "shipped" / "kafka.xml").read_text()


def _run() -> list[str]:
    return ["java", *JVM, *QUIET, "-cp", f"{jars()}/*"]


def _java() -> int:
    """The version of this machine's Java; 0 where there is none."""
    if shutil.which("java") is None:
        return 0
    said = subprocess.run(["java", "-version"], capture_output=True, check=False, text=True).stderr  # noqa: S607
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0
