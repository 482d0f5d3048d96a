"""`python -m tests.crash --runs N`: kill -9 in the middle of the work, and count what was lost or doubled.

Prints a line for each run (with --json one list of reports instead) and exits 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.crash.checker import Report, judge
from tests.crash.driver import run
from tests.crash.plan import Plan


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="how many runs, each with the next seed")
    for field in msgspec.structs.fields(Plan):
        if field.type is int and field.name != "seed":
            parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--seed", type=int, help="of the first run; random by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a run may take")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that failed")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def tell(line: str) -> None:
    """Progress, on a line of its own that is overwritten; nothing where nobody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def one_run(plan: Plan, keep: bool) -> Report:
    folder = Path(tempfile.mkdtemp(prefix="tidings-crash-"))
    report = None
    try:
        report = judge(plan, run(plan, folder, tell))
        return report
    finally:
        tell("")
        if keep and (report is None or report.problems):
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)


def main() -> int:
    given = arguments()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    sizes = {name: getattr(given, name) for name in Plan.__struct_fields__ if name not in ("seed", "bug")}
    reports = []
    for number in range(given.runs):
        report = one_run(Plan(seed=seed + number, **sizes), given.keep)
        reports.append(report)
        print("\n  ".join([report.line, *report.problems]), file=sys.stderr if given.json else sys.stdout, flush=True)
    if given.json:
        print(msgspec.json.encode(reports).decode())
    return int(any(report.problems for report in reports))


if __name__ == "__main__":
    sys.exit(main())
