"""What style.md forbids and no linter knows: see CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tidings"
SHOP = SOURCE.parents[1] / "examples" / "shop"
FILES = sorted(SOURCE.rglob("*.py"))
OUTSIDE = {
    "brokers",
    "embedded",
    "jetstream",
    "kafka",
    "pg",
    "redis",
    "chaos",
    "cli",
    "dev",
    "observe",
    "security",
    "gateway",
    "console",
    "flood",
    "testing",
    "__main__",
}
ENGINE = [path for path in FILES if path.relative_to(SOURCE).parts[0].removesuffix(".py") not in {*OUTSIDE, "clock"}]

SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "base", "types", "misc"}
SAYS_LITTLE = re.compile(r"(Manager|Factory|Mixin|Configurator)$")

# What would escape a simulator that owns time, ids and randomness.
UNTAMED_MODULES = {"time", "random", "secrets", "uuid"}
UNTAMED_NAMES = {
    *(f"datetime.{cls}.{name}" for cls in ("datetime", "date") for name in ("now", "utcnow", "today")),
    *("asyncio.sleep", "os.urandom", "os.getrandom"),
}
HARMLESS_NAMES = {"uuid.UUID"}


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each imported thing that a module uses, by its full name: `from os import urandom as r; r()` is os.urandom."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in known:
                yield node.lineno, f"{known[first]}.{rest}".rstrip(".")


def untamed(source: str) -> list[str]:
    """The lines that read time, ids or randomness behind the clock's back."""
    return [
        f"line {line}: {name}"
        for line, name in uses(ast.parse(source))
        if name in UNTAMED_NAMES
        or ("." in name and name.split(".")[0] in UNTAMED_MODULES and name not in HARMLESS_NAMES)
    ]


def waits_for(source: str) -> list[str]:
    return [f"line {line}: {name}" for line, name in uses(ast.parse(source)) if name == "asyncio.wait_for"]


def does_something(source: str) -> list[str]:
    """The statements of an `__init__.py` that do more than import, document and say what is public."""
    return [
        f"line {node.lineno}: {ast.unparse(node)[:60]}"
        for node in ast.parse(source).body
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    ]


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", ENGINE, ids=relative)
def test_the_engine_reads_time_ids_and_randomness_from_the_clock(path: Path) -> None:
    assert not untamed(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_wait_for(path: Path) -> None:
    assert not waits_for(path.read_text()), "use asyncio.timeout"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_names_say_what_a_thing_does(path: Path) -> None:
    assert not {path.stem, *path.relative_to(SOURCE).parent.parts} & SAYS_NOTHING
    classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if SAYS_LITTLE.search(name)]


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=relative)
def test_package_files_only_reexport(path: Path) -> None:
    assert not does_something(path.read_text())


@pytest.mark.parametrize("path", sorted(SHOP.rglob("*.py")), ids=lambda path: path.name)
def test_the_shop_imports_itself_relatively(path: Path) -> None:
    """It is examples.shop in the checkout and tidings.examples.shop where tidings is installed."""
    assert not [
        name for _, name in uses(ast.parse(path.read_text())) if name.startswith(("examples.", "tidings.examples"))
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import time\nnow = time.time()",
        "import time as t\nnow = t.monotonic_ns",
        "from time import monotonic\nnow = monotonic()",
        "import datetime as dt\nnow = dt.datetime.now(dt.UTC)",
        "from datetime import datetime\nnow = datetime.utcnow()",
        "import random\nrandom.Random(1).random()",
        "from uuid import uuid4\nuuid4()",
        "import os\nos.urandom(16)",
        "import asyncio\nasync def f():\n    await asyncio.sleep(1)",
        "def f():\n    from asyncio import sleep as nap\n    return nap",
    ],
)
def test_an_untamed_read_is_found(source: str) -> None:
    assert untamed(source)


def test_types_and_arithmetic_of_time_are_no_reads() -> None:
    assert not untamed(
        "from uuid import UUID\nimport datetime as dt\nx: UUID\ny = dt.datetime.fromtimestamp(0, dt.UTC)"
    )


def test_a_wait_for_is_found() -> None:
    assert waits_for("import asyncio\nasync def f(x): await asyncio.wait_for(x, 1)")


def test_a_working_package_file_is_found() -> None:
    assert does_something('"""Doc."""\nfrom tidings.app import App\n__all__ = ["App"]\napp = App()') == [
        "line 4: app = App()"
    ]
