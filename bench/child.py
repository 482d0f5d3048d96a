"""One round of one side, in a process of its own; prints its Reading.

`python -m bench.child MEASURE ours|raw FOLDER SHARED_FOLDER SCALE`
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from bench.measures import MEASURES
from bench.reading import Task


def main() -> None:
    """Run what the arguments say."""
    name, side, folder, shared, scale = sys.argv[1:]
    run = getattr(MEASURES[name], side)
    print(msgspec.json.encode(run(Task(Path(folder), Path(shared), float(scale)))).decode())


if __name__ == "__main__":
    main()
