"""The command line: `tidings COMMAND`. A command is a file here, imported when it is asked for."""

from tidings.cli.main import main

__all__ = ["main"]
