"""Right and wrong programs, judged by type checkers.

`typing/right_*.py` pass mypy --strict and basedpyright. In `typing/wrong_*.py` mypy flags exactly the lines that carry
`# E: fragment`, with a message that contains the fragment; basedpyright flags at least those with `# B: fragment`,
for what it alone sees or both have promised to see. A line may carry both marks.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = HERE.parents[1]
RIGHT = sorted(path.name for path in HERE.glob("right_*.py"))
WRONG = sorted(path.name for path in HERE.glob("wrong_*.py"))

Findings = Mapping[str, Sequence[tuple[int, str]]]  # of each file: line and message

pytestmark = pytest.mark.timeout(240)  # a first mypy run reads the type information of every dependency


def run(module: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


def by_file(found: list[tuple[str, int, str]]) -> Findings:
    return {name: [(line, text) for where, line, text in found if Path(where).name == name] for name in RIGHT + WRONG}


@pytest.fixture(scope="module")
def mypy() -> Findings:
    said = [json.loads(line) for line in run("mypy", "--strict", "--output=json", str(HERE)).splitlines()]
    return by_file([(e["file"], e["line"], e["message"]) for e in said if e["severity"] == "error"])


@pytest.fixture(scope="module")
def basedpyright() -> Findings:
    files = [str(HERE / name) for name in RIGHT + WRONG]
    said: dict[str, Any] = json.loads(run("basedpyright", "--outputjson", "--pythonpath", sys.executable, *files))
    return by_file([(e["file"], e["range"]["start"]["line"] + 1, e["message"]) for e in said["generalDiagnostics"]])


def expected(name: str, mark: str) -> dict[int, str]:
    lines = enumerate((HERE / name).read_text().splitlines(), 1)
    marks = ((line, re.search(rf"# {mark}: (.*?)(?=  # [A-Z]: |$)", text)) for line, text in lines)
    return {line: found[1] for line, found in marks if found}


def unmet(name: str, mark: str, findings: Findings) -> list[str]:
    """What should have been said and was not."""
    return [
        f"{name}:{line}: expected {fragment!r}, heard {[text for at, text in findings[name] if at == line]}"
        for line, fragment in expected(name, mark).items()
        if not any(at == line and fragment in text for at, text in findings[name])
    ]


def test_there_are_programs_of_both_kinds() -> None:
    assert RIGHT
    assert WRONG


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_pass(name: str, mypy: Findings, basedpyright: Findings) -> None:
    assert not mypy[name]
    assert not basedpyright[name]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_are_flagged_where_they_are_wrong(name: str, mypy: Findings, basedpyright: Findings) -> None:
    assert not unmet(name, "E", mypy)
    assert not unmet(name, "B", basedpyright)
    assert not [(line, text) for line, text in mypy[name] if line not in expected(name, "E")], "flagged without a mark"
