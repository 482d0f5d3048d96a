"""`python -m tests.crash --runs N`: the same as `tidings chaos run --runs N`."""

from __future__ import annotations

import sys

from tidings.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["chaos", "run"]
    main()
