"""RabbitMQ: Debian's package, or one on the PATH, as a node of its own with its own epmd, cookie and folders."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidings.dev.server import Server, free_port

START = "epmd -address 127.0.0.1 & exec rabbitmq-server"
"""An epmd that RabbitMQ starts by itself would be a daemon, and everybody's."""
LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
NO_SPIN = "+sbwt none +sbwtdcpu none +sbwtdio none"
"""Erlang's schedulers look for work in a busy loop; a server for development lets others have the processor."""


class RabbitMQ(Server):
    """A RabbitMQ node of one; what a quorum queue confirms is on the disk.

    The queue itself is there only about a second after it was declared (seen with 3.10): a kill before that forgets it
    with all that it has confirmed, and it comes back empty and without a leader.

    `settings` are those of rabbitmq.conf: `{"disk_free_limit.absolute": "1GB"}`; `plugins` are those that it enables.
    """

    kind = "rabbitmq"
    usual_port = 5672
    patience = 120.0
    packages = {"epmd": "erlang-base", "rabbitmqctl": "rabbitmq-server"}  # noqa: RUF012

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int = 0,
        settings: Mapping[str, Any] | None = None,
        plugins: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, port=port, settings=settings)
        self._plugins = plugins
        self._epmd, self._distribution = free_port(), free_port()

    @classmethod
    def needs(cls) -> str | None:
        """What is missing."""
        here = _programs() and shutil.which("epmd")
        return None if here else "RabbitMQ is not installed: apt-get install rabbitmq-server"

    @property
    def url(self) -> str:
        """For the user guest, who has all rights."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def _prepare(self) -> None:
        super()._prepare()
        ours = {
            "listeners.tcp.local": f"127.0.0.1:{self.port}",
            "log.console": "true",
            "log.console.level": "warning",
            "log.file": "false",
            "disk_free_limit.absolute": "50MB",
        }
        lines = [f"{name} = {value}" for name, value in (ours | self.settings).items()]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")

    def _command(self) -> list[str]:
        return ["/bin/sh", "-c", START]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{_programs()}:{os.environ['PATH']}",
            "HOME": str(self.folder),  # of the cookie
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "tidings@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG": "-color",
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{LOOPBACK} {NO_SPIN}",
        }

    def _greets(self, peer: socket.socket) -> bool:
        """Open a connection: a node listens last of all, when its queues are recovered."""
        peer.sendall(b"AMQP\0\0\x09\x01")
        return peer.recv(64).startswith(b"\x01")


def _programs() -> Path | None:
    """The folder with the scripts: Debian's own ones, since those on its PATH want to be another user."""
    debian = Path("/usr/lib/rabbitmq/bin")
    on_path = shutil.which("rabbitmq-server")
    return debian if debian.is_dir() else Path(on_path).parent if on_path else None
