"""`tidings new`: what it makes runs."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.terminal import column, failed, finish, run, start, tidings
from tidings.config import load


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a new service, in which the test then is."""
    assert tidings("new", "greeter").code == 0
    monkeypatch.chdir("greeter")
    return Path.cwd()


def test_a_folder_with_all_that_is_needed() -> None:
    result = tidings("new", "greeter", "--json")
    files = [".gitignore", "README.md", "app.py", "pyproject.toml", "test_app.py", "tidings.toml"]
    assert result.json == {"folder": str(Path("greeter").absolute()), "files": files}
    assert sorted(path.name for path in Path("greeter").iterdir()) == files
    assert all("$" not in (Path("greeter") / name).read_text() for name in files)


def test_it_says_how_to_go_on() -> None:
    assert "tidings run app:app" in tidings("new", "greeter").out


def test_its_settings_are_known(made: Path) -> None:
    assert load().broker == "sqlite:tidings.db"
    assert tomllib.loads(Path("pyproject.toml").read_text())["project"]["name"] == "greeter"


def test_its_test_passes(made: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


def test_its_code_has_the_right_types(made: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "app.py", "test_app.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, result.stdout


def test_it_runs_as_its_readme_says(made: Path) -> None:
    worker = start("run", "app:app", "--log", "text")
    assert worker.stderr is not None
    assert any(b"greeter.greet" in line for line in worker.stderr)
    assert run("publish", "visitor.came", '{"visitor": "Ada"}', "--app", "app:app").code == 0
    greeted = run("tail", "--from", "start", "--type", "visitor.greeted", "-n", "1", "--json").lines
    assert column(greeted, "data") == [{"visitor": "Ada", "words": "Welcome, Ada! This is visit 1."}]
    (group,) = run("groups", "--json", "--interval", "0").json
    assert (group["group"], group["waiting"], group["members"], group["dead"]) == ("greeter.greet", 0, 1, 0)
    worker.send_signal(signal.SIGTERM)
    assert finish(worker).code == 0


def test_a_name_that_cannot_be() -> None:
    Path("taken").mkdir()
    assert failed(tidings("new", "taken"), 2, "There is a taken here already")
    for name in ("a/b", "../up", "-", "été", "a b", ""):
        assert failed(tidings("new", "--", name), 2, "letters, digits, - and _ only")
    assert [path.name for path in Path.cwd().iterdir()] == ["taken"]
