"""What the documentation shows is true.

In README.md, docs/tutorial and docs/guide:

- a block marked `python` is a program: those of a page are joined in order, into the file that `title="..."` names or
  into one for the page, and each file is run (a `test_*.py` by pytest) in a folder of its own;
- a block marked `output` is what these programs print, in order;
- a block marked `py` is a fragment: it has to compile;
- in a block marked `console`, `$ tidings ...` has to be a command with these options.
"""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest

from tidings import errors
from tidings.cli.main import cli
from tidings.config import Config
from tidings.observe.metrics import Figures

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("tutorial/*.md")), *sorted(DOCS.glob("guide/*.md"))]
LINKED = [
    *PAGES,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("adr/*.md")),
]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SHELL = {"|", "&&", "&", ";", ">", "#"}


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: Path, language: str) -> list[Block]:
    found = [Block(*match.groups(default="")) for match in FENCE.finditer(page.read_text())]
    return [block for block in found if block.language == language]


def programs(page: Path) -> dict[str, str]:
    files: dict[str, str] = {}
    for block in blocks(page, "python"):
        name = block.title or f"{re.sub(r'[^a-z]', '_', page.stem.lower())}.py"
        files[name] = files.get(name, "") + block.text
    return files


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(folder: Path, name: str) -> str:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", name] if name.startswith("test_") else [name]
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{name}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return "" if name.startswith("test_") else done.stdout


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page, "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ tidings"):
                words = shlex.split(line.removeprefix("$ tidings"), comments=True)
                yield list(takewhile(lambda word: word not in SHELL, words))


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Those that do something, by their words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from every_command(inner, (*path, name))
    else:
        yield " ".join(path), command


@pytest.mark.timeout(300)  # a page has several programs, each a process that a loaded machine starts slowly
@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)], ids=relative)
def test_programs_run_and_print_what_is_said(page: Path, tmp_path: Path) -> None:
    files = programs(page)
    if any("import sqlalchemy" in text or "from sqlalchemy" in text for text in files.values()):
        pytest.importorskip("sqlalchemy")  # an extra
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    printed = "".join(run(tmp_path, name) for name in files)
    assert printed == "".join(block.text for block in blocks(page, "output"))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_fragments_compile(page: Path) -> None:
    for block in blocks(page, "py"):
        compile(block.text, relative(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", [page for page in PAGES if [*commands(page)]], ids=relative)
def test_commands_exist_with_their_options(page: Path) -> None:
    for words in commands(page):
        command: click.Command = cli
        rest = words
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            name, *rest = rest
            inner = command.get_command(click.Context(command), name)
            assert inner is not None, f"tidings {' '.join(words)}: there is no {name}"
            command = inner
        try:
            command.make_context(" ".join(words), list(rest))
        except click.exceptions.Exit:
            pass  # --help, --version
        except click.UsageError as error:
            pytest.fail(f"tidings {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", LINKED, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_navigation_has_every_page() -> None:
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(pages)


def test_every_command_and_option_is_documented() -> None:
    text = (DOCS / "guide" / "command-line.md").read_text()
    for name, command in every_command(cli):
        assert f"### `tidings {name}`" in text
        section = text.partition(f"### `tidings {name}`")[2].partition("\n### ")[0]
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        spoken = [max(option.opts, key=len) for option in options if option.name != "help"]
        assert not [word for word in spoken if f"`{word}" not in section], f"options of tidings {name}"


def test_every_setting_is_documented() -> None:
    text = (DOCS / "guide" / "configuration.md").read_text()
    assert not [field.name for field in msgspec.structs.fields(Config) if f"| `{field.name}` |" not in text]


def test_every_error_is_documented() -> None:
    text = (DOCS / "guide" / "errors.md").read_text()
    names = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)]
    assert names
    assert not [name for name in names if f"`{name}`" not in text]


def test_every_metric_is_documented() -> None:
    text = (DOCS / "guide" / "observability.md").read_text()
    names = [metric.name + ("_total" if metric.type == "counter" else "") for metric in Figures([], {}).collect()]
    assert names
    assert not [name for name in names if f"`{name}`" not in text]
