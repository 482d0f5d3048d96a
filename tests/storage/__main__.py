"""All crash states of a journey: `python -m tests.storage [--samples N] [--lives N] [--sync MODE] [--deaf]`."""

from __future__ import annotations

import asyncio

import click
import msgspec

from tests.storage.disk import Moment
from tests.storage.survey import record, survey


@click.command()
@click.option("--samples", default=8, help="States of each kind of damage at each sync, where there are more.")
@click.option("--lives", default=4, help="States of each sync with which a broker goes on.")
@click.option("--sync", default="FULL", help="SQLite's `synchronous`; anything but FULL is expected to lose.")
@click.option("--deaf", is_flag=True, help="Pretend that the disk does not sync when told to.")
def main(samples: int, lives: int, sync: str, deaf: bool) -> None:
    """Say what was found, as JSON. The exit code is 1 where something was wrong."""
    tape = record("--sync", sync, *(["--deaf"] if deaf else []))
    with click.progressbar(length=len(tape), label="crash points") as bar:

        def advance(moment: Moment) -> None:
            bar.update(moment.entry - bar.pos)

        found = asyncio.run(survey(tape, samples=samples, lives=lives, each=advance))
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    raise SystemExit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
