"""One round of one side, in a process of its own; prints its Reading.

`python -m bench.child MEASURE ours|raw FOLDER SHARED_FOLDER SCALE SERVER`; SERVER is empty for the embedded broker.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import msgspec

from bench.reading import Task


def main() -> None:
    """Run what the arguments say."""
    name, side, folder, shared, scale, server = sys.argv[1:]
    table = importlib.import_module("bench.brokers.measures" if "." in name else "bench.measures")
    run = getattr(table.MEASURES[name], side)
    print(msgspec.json.encode(run(Task(Path(folder), Path(shared), float(scale), server))).decode())


if __name__ == "__main__":
    main()
