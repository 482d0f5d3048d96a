"""Small enough to read: files, functions, parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src").rglob("*.py"))
LISTED = re.findall(r"^\| `(src/[^`]+)` \| \S.*\|$", (ROOT / "docs/adr/sizes.md").read_text(), flags=re.MULTILINE)

FILE_LINES, LISTED_FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 600, 40, 6
NOT_COUNTED = {"self": 1, "cls": 1, "mcls": 4}  # a metaclass is called with name, bases and namespace: not our choice

Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def functions(source: str) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def length(function: Function) -> int:
    """From `def` to the last line: what has to be read, docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> int:
    spec = function.args
    named = [*spec.posonlyargs, *spec.args]
    given = len(named) + len(spec.kwonlyargs) + sum(rest is not None for rest in (spec.vararg, spec.kwarg))
    return given - (NOT_COUNTED.get(named[0].arg, 0) if named else 0)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_are_short(path: Path) -> None:
    limit = LISTED_FILE_LINES if relative(path) in LISTED else FILE_LINES
    assert lines(path) <= limit, "split it by noun, or give the reason in docs/adr/sizes.md"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_are_short(path: Path) -> None:
    assert not [f"{f.name}: {length(f)} lines" for f in functions(path.read_text()) if length(f) > FUNCTION_LINES]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_take_few_parameters(path: Path) -> None:
    assert not [f"{f.name}: {parameters(f)}" for f in functions(path.read_text()) if parameters(f) > PARAMETERS]


def test_only_long_files_are_listed() -> None:
    listed = {name: (ROOT / name).exists() and lines(ROOT / name) for name in LISTED}
    assert not {name: count for name, count in listed.items() if count <= FILE_LINES}, "no longer long, or gone"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(): ...", 0),
        ("def f(a, /, b, *c, d, **e): ...", 5),
        ("class A:\n    async def f(self, a, *, b): ...", 2),
        ("class A(type):\n    def __new__(mcls, name, bases, namespace, *, key): ...", 1),
    ],
)
def test_parameters_are_counted(source: str, count: int) -> None:
    assert [parameters(function) for function in functions(source)] == [count]


def test_lines_are_counted() -> None:
    assert [length(function) for function in functions("@decorator\ndef f():\n    '''Doc.'''\n\n    return 1\n")] == [4]
