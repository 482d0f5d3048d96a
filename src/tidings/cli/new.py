"""`tidings new`: a folder in which a service runs and is tested from the first minute."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from tidings.cli.output import emit
from tidings.cli.target import json_option

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")
SUFFIX = ".txt"  # no linter, test runner or packager should take a template for what it will be


@click.command()
@click.argument("name")
@json_option
def new(name: str, as_json: bool) -> None:
    """Begin a service: a folder NAME with an app, its test, its settings and how to run them."""
    if not NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} cannot name a service: use letters, digits, - and _ only.")
    folder = Path(name)
    try:
        folder.mkdir()
    except FileExistsError:
        raise click.UsageError(f"There is a {name} here already; choose another name.") from None
    except OSError as error:
        raise click.UsageError(f"{name} cannot be made here: {error.strerror}.") from error
    written = []
    for template in sorted(files("tidings.cli").joinpath("templates").iterdir(), key=lambda file: file.name):
        written.append(template.name.removesuffix(SUFFIX))
        text = Template(template.read_text(encoding="utf-8")).substitute(name=name)
        (folder / written[-1]).write_text(text, encoding="utf-8")
    if as_json:
        emit({"folder": str(folder.absolute()), "files": written}, as_json)
    else:
        click.echo(f"Made {folder}/ with {', '.join(written)}.\n")
        click.echo(f"  cd {folder}\n  tidings run app:app\n")
        click.echo("and in another terminal:\n")
        click.echo('  tidings publish visitor.came \'{"visitor": "Ada"}\' --app app:app\n  tidings tail --from start')
