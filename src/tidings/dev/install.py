"""Getting what a server is made of: Debian's packages where we are root, what it fetches by itself as anybody."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from tidings.dev.server import TAIL, Server
from tidings.errors import BrokerError, ConfigError

ATTEMPTS = 3
APT = ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
POLICY = Path("/usr/sbin/policy-rc.d")
DENIED = "#!/bin/sh\nexit 101\n"


def install(server: type[Server]) -> None:
    """Install what the server needs; nothing if it is here. Asks nobody anything, and starts no service.

    Raises ConfigError where that is not ours to do, with the line that does it; BrokerError where it failed.
    """
    if server.needs() is None:
        return
    lacking = [package for program, package in server.packages.items() if shutil.which(program) is None]
    if lacking:
        _from_debian(server, lacking)
    if server.needs() is not None:
        _again(server.fetch)


def _from_debian(server: type[Server], packages: Sequence[str]) -> None:
    line = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise ConfigError(f"{server.needs()} (which takes {', '.join(packages)}, and here is no apt-get)")
    if os.geteuid() != 0:
        raise ConfigError(f"{server.kind} needs packages that only root can install: sudo {line}")
    with _no_services():
        try:
            _apt("install", "--no-install-recommends", *packages)
        except BrokerError:  # lists of packages that are missing, or older than what the mirrors still have
            _again(lambda: _apt("update"))
            _again(lambda: _apt("install", "--no-install-recommends", *packages))


def _apt(*words: str) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run([*APT, *words], capture_output=True, check=False, env=quiet, text=True)
    if done.returncode:
        raise BrokerError(f"apt-get {words[0]} failed: {(done.stderr or done.stdout)[-TAIL:].strip()}")


@contextlib.contextmanager
def _no_services() -> Generator[None]:
    """A package that brings a service would start it: Debian asks this file first."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(DENIED)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _again(step: Callable[[], None]) -> None:
    """Networks fail now and then."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(BrokerError):
            return step()
    return step()
