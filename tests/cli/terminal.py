"""The command line as its users have it: `tidings(...)` runs a command here, `start(...)` in a process of its own."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any, NamedTuple
from unittest import mock

from tidings.cli import main


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its output, JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def tidings(*args: str, answer: str = "") -> Result:
    """Run a command as `main` does, errors and exit code included; `answer` is what is typed."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", io.StringIO(answer)),
        mock.patch("sys.argv", ["tidings", *args]),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return Result(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def start(*args: str, stdin: IO[bytes] | int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own."""
    command = [sys.executable, "-m", "tidings", *args]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*args: str, stdin: bytes = b"") -> Result:
    """Run a command in a process of its own, to its end."""
    return finish(start(*args), stdin)


def finish(process: subprocess.Popen[bytes], stdin: bytes | None = None, *, patience: float = 60.0) -> Result:
    """What a process did when it has ended, which is to be in `patience` seconds."""
    out, err = process.communicate(stdin, timeout=patience)
    return Result(process.returncode, out.decode(), err.decode())


def failed(result: Result, code: int, *words: str) -> bool:
    """Whether a command failed with this code and said these words in a sentence, not a traceback."""
    said = result.err
    return result.code == code and "Traceback" not in said and all(word in said for word in words)


def column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """One field of many rows."""
    return [row[name] for row in rows]
