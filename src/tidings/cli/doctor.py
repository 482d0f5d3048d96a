"""`tidings doctor`: is all well with the settings, the file and what is in it, and if not, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tidings.cli.catalog import file_of
from tidings.cli.checkup import Finding, examine
from tidings.cli.output import emit, plain, progress
from tidings.cli.target import broker_option, json_option
from tidings.config import load
from tidings.errors import ConfigError

COLORS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command()
@click.argument("target", metavar="[PATH|URL]", required=False)
@click.option("--full", is_flag=True, help="Compare indexes with tables too: slower.")
@broker_option
@json_option
@click.pass_context
def doctor(context: click.Context, target: str | None, full: bool, broker: str | None, as_json: bool) -> None:
    """Check the settings, the database file and what it holds, without changing anything.

    Every record is compared with its checksum, so this reads the whole file.

    Each line is ok, warn or bad, with what to do. The exit code is 1 if something is bad.
    """
    if target is not None and broker is not None:
        raise click.UsageError("Name the file once: as an argument or with --broker.")
    url = target or broker
    findings, path = _settings(url)
    if path is not None:
        with progress(f"checking {path}", quiet=as_json):
            findings += examine(path, full=full)
    good = all(finding.state != "bad" for finding in findings)
    if as_json:
        checks = [finding._asdict() for finding in findings]
        emit({"ok": good, "file": None if path is None else str(path), "checks": checks}, as_json)
    else:
        _print(findings)
    context.exit(0 if good else 1)


def _settings(url: str | None) -> tuple[list[Finding], Path | None]:
    """What is wrong with tidings.toml and the environment, and the file to look at."""
    try:
        config = load()
    except ConfigError as error:
        finding = Finding("settings", "bad", str(error), "correct it where it was written")
        return [finding], None if url is None else _path(url)
    return [Finding("settings", "ok", f"broker {config.broker}")], _path(url or config.broker)


def _path(url: str) -> Path:
    return file_of(url) if url.startswith(("sqlite:", "memory:")) or "://" in url else Path(url).absolute()


def _print(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        state = click.style(f"{finding.state:<4}", fg=COLORS[finding.state])
        click.echo(f"{state}  {finding.check:<{width}}  {plain(finding.detail)}")
        if finding.remedy is not None:
            click.echo(f"{'':<{width + 8}}{plain(finding.remedy)}")
