"""A disk of our own, where mounting is allowed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Generator[bool]:
    """Mount a disk in memory at `folder`; False where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """Change how it is mounted, such as "ro" or "size=8m"."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True, capture_output=True)
