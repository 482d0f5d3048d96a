"""A worker's end of the socket to its supervisor: what both tell is JSON, a line each; its end ends the worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tidings.observe.lookout import MARGIN
from tidings.runtime import GAVE_UP


class Lifeline:
    """Ends this process in order when the supervisor is gone, however it went. `heard` gets each line that it says."""

    def __init__(self, descriptor: int, heard: Callable[[bytes], None] | None = None) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._heard = heard
        self._grace = 0.0
        threading.Thread(target=self._watch, name="tidings-lifeline", daemon=True).start()

    def begin(self, grace: float) -> None:
        """The apps are loaded; `grace` is what they need to end, in seconds."""
        self._grace = grace
        self._tell(grace=grace, folders=folders())

    def ready(self) -> None:
        """All handlers listen."""
        self._tell(ready=True)

    def _tell(self, **what: object) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone, which `_watch` sees too
            self._socket.sendall(json.dumps(what).encode() + b"\n")

    def _watch(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:  # an error is as good as its end
            for line in lines:
                if self._heard is not None:
                    self._heard(line)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace + MARGIN)
        os._exit(GAVE_UP)


def folders() -> list[str]:
    """Where the program's own modules are: those of neither Python nor installed packages."""
    installed = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return sorted({str(Path(file).parent) for file in files if file and not file.startswith(installed)})
