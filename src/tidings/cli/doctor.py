"""`tidings doctor`: is all well with the settings, with the file or the server, and if not, what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from tidings.cli.catalog import file_of
from tidings.cli.checkup import examine
from tidings.cli.output import emit, plain, progress
from tidings.cli.target import broker_option, json_option, monitor_option
from tidings.clock import Clock
from tidings.config import Config, load
from tidings.connect import surveyor
from tidings.errors import BrokerError, ConfigError
from tidings.options import masked
from tidings.survey import Finding, Surveyor, Wish

COLORS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command()
@click.argument("target", metavar="[PATH|URL]", required=False)
@click.option("--full", is_flag=True, help="Compare indexes with tables too: slower. For database files.")
@monitor_option
@broker_option
@json_option
@click.pass_context
def doctor(
    context: click.Context, /, target: str | None, full: bool, broker: str | None, monitor: str | None, as_json: bool
) -> None:
    """Check the settings, the database file and what it holds, or the server and what its settings promise.

    Nothing is changed. Of a file every record is compared with its checksum, so this reads the whole file.

    Each line is ok, warn or bad, with what to do. The exit code is 1 if something is bad, 2 if there is no such server.
    """
    if target is not None and broker is not None:
        raise click.UsageError("Name the file or server once: as an argument or with --broker.")
    findings, config = _settings(target or broker)
    server = None if config is None else surveyor(config, Clock(), monitor)
    path = None if config is None or server is not None else file_of(config.broker)
    if server is not None and config is not None:
        if full:
            raise click.UsageError("--full is for database files: leave it out.")
        findings += asyncio.run(_look(server, config))
    elif path is not None:
        with progress(f"checking {path}", quiet=as_json):
            findings += examine(path, full=full)
    good = all(finding.state != "bad" for finding in findings)
    if as_json:
        where = {"file": None if path is None else str(path), "server": server and config and masked(config.broker)}
        emit({"ok": good, **where, "checks": [finding._asdict() for finding in findings]}, as_json)
    else:
        _print(findings)
    context.exit(0 if good else 1)


def _settings(target: str | None) -> tuple[list[Finding], Config | None]:
    """What is wrong with tidings.toml and the environment; and the settings with what is to be looked at."""
    url = None if target is None else _url(target)
    try:
        config = load()
    except ConfigError as error:
        finding = Finding("settings", "bad", str(error), "correct it where it was written")
        return [finding], None if url is None else Config(broker=url)
    finding = Finding("settings", "ok", f"broker {masked(config.broker)}")
    return [finding], config if url is None else load(broker=url)


def _url(target: str) -> str:
    """A path is written without a scheme."""
    is_url = target.startswith(("sqlite:", "memory:")) or "://" in target
    return target if is_url else f"sqlite:{Path(target).absolute()}"


async def _look(server: Surveyor, config: Config) -> Sequence[Finding]:
    """What the server's settings are worth. Raises click.ClickException where it cannot be looked at."""
    wish = Wish(config.body_limit, config.keep, config.lease, config.store is not None)
    try:
        await server.open()
        try:
            return await server.findings(wish)
        finally:
            await server.close()
    except BrokerError as error:
        raise click.ClickException(str(error)) from error


def _print(findings: Sequence[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        state = click.style(f"{finding.state:<4}", fg=COLORS[finding.state])
        click.echo(f"{state}  {finding.check:<{width}}  {plain(finding.detail)}")
        if finding.remedy is not None:
            click.echo(f"{'':<{width + 8}}{plain(finding.remedy)}")
