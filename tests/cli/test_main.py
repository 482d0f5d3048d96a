"""The group of commands: what it costs, what it says when something is wrong, what it prints."""

import subprocess
import sys
from pathlib import Path

import pytest

from tidings.cli.main import COMMANDS, cli, main
from tidings.cli.output import emit, plain
from tidings.cli.target import load_all, load_apps
from tidings.errors import ConfigError, StorageFull, TidingsError


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from tidings.cli import main; sys.argv[1:] = ['--help']\ntry: main()\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, _, modules = done.stdout.rstrip().rpartition("\n")

    assert all(f"  {name} " in shown for name in COMMANDS)
    heavy = {"rich", "prometheus_client", "opentelemetry", "tidings.runtime", "tidings.brokers.sqlite"}
    assert not heavy & set(modules.split())
    assert not {entry.source.partition(":")[0] for entry in COMMANDS.values()} & set(modules.split())


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("no such thing"), 2), (StorageFull("no space"), 1), (KeyboardInterrupt(), 130)]
)
def test_what_goes_wrong_is_a_sentence_and_an_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as exited:
        main()

    assert exited.value.code == code
    assert capsys.readouterr().err == (f"error: {error}\n" if isinstance(error, TidingsError) else "")


def test_usage_errors_exit_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["tidings", "nosuch"])
    with pytest.raises(SystemExit) as exited:
        main()

    assert exited.value.code == 2
    assert "No such command 'nosuch'" in capsys.readouterr().err


# -- targets


def write(name: str, text: str) -> str:
    """A module in the working folder, of a name that no other test has imported."""
    module = f"target_{name}"
    Path(f"{module}.py").write_text(text)
    return module


def test_an_app_a_list_of_apps_and_the_default_name_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    module = write("good", "from tidings import App\napp = App('one')\napps = [app, App('two')]\n")

    assert [app.name for app in load_apps(module)] == ["one"]
    assert [app.name for app in load_apps(f"{module}:apps")] == ["one", "two"]
    assert [app.name for app in load_all([module, f"{module}:apps"])] == ["one", "two"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nowhere:app", "there is no module 'nowhere'"),
        ("target_named:ap", "'ap' in target_named is not there; there is: shop, both."),
        ("target_named:number", "'number' in target_named is no App or list of them but int"),
        ("target_named:none", "'none' in target_named is no App or list of them but list"),
        ("shop/orders.py:app", "Write module:app"),
        (":app", "Write module:app"),
        ("a..b:app", "Write module:app"),
    ],
)
def test_what_is_not_there_is_said(spec: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "target_named", raising=False)
    write("named", "from tidings import App\nshop = App('shop')\nboth = [shop]\nnumber = 1\nnone = []\n")

    with pytest.raises(ConfigError) as refused:
        load_apps(spec)
    assert sentence in str(refused.value)


def test_a_module_that_lacks_another_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    module = write("lacks", "import not_installed_anywhere\n")

    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        load_apps(module)


def test_two_apps_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    module = write("twice", "from tidings import App\napps = [App('shop'), App('shop')]\n")

    with pytest.raises(ConfigError, match="two apps called 'shop'"):
        load_all([f"{module}:apps"])


# -- output


def test_no_payload_reaches_the_terminal_as_more_than_text(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "a\x1b[31mred\x07 \x9b5m\u202eright to left\u2066 [bold]markup[/bold]\r\nline \ud800 ü"
    emit([{"text": nasty, "number": 1}], False)
    emit([{"text": nasty}], True)
    emit({"text": nasty}, False)

    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert "[bold]markup[/bold]" in shown
    assert plain("a\tb\nc") == "a b c"


def test_json_is_what_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"name": "ä\x1b", "none": None}], True)
    emit({"name": "x"}, True)

    assert capsys.readouterr().out == '[{"name": "ä\\u001b", "none": null}]\n{"name": "x"}\n'


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"name": "x" * 300, "count": 12345}, {"name": None, "count": 1}], False, columns=["count", "name"])

    first, *rows = capsys.readouterr().out.splitlines()
    assert first.split() == ["count", "name"]
    assert [row.split() for row in rows] == [["12345", "x" * 300], ["1", "-"]]
