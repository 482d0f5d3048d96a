"""`tidings demo`: what can be asked for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from tidings.cli.demo.options import SPEED, Options
from tidings.cli.dev import KINDS


@click.command(short_help="A web shop of several services works off real orders, and survives a kill -9.")
@click.option(
    "--orders",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Replay this file, not the packaged one: CDNOW purchases or Online Retail invoices, plain or gzipped.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Replay the first N only.")
@click.option(
    "--kills", type=click.IntRange(0), metavar="N", default=1, show_default=True, help="How many workers to kill."
)
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help=f"Orders a second; {SPEED:g} where somebody watches, else as fast as it goes.",
)
@click.option("--headless", is_flag=True, help="Draw nothing; the same where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the ledger as one JSON object in the last line.")
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the shop in this database, and go on with what is in it; a temporary one by default.",
)
@click.option(
    "--broker",
    metavar="URL",
    help=f"Run the shop on this server; a name ({', '.join(KINDS)}) starts one, and ends it.",
)
@click.option(
    "--store",
    metavar="URL",
    help="Where the services keep their books, beside a server that has no store; a temporary file by default.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="SVG",
    help="Save the view after the first kill.",
)
def demo(**given: Any) -> None:
    """Run a web shop on real orders, kill some of its workers, draw up a ledger.

    Seven services, which know each other only by events, work off past orders in three processes. In the middle a
    worker is killed with kill -9. At the end the books of every service are compared with what went in. Exit code 1 if
    anything was lost or done twice, or if the server went away. Ctrl-C ends it; with --db it goes on the next time.
    """
    from tidings.cli.demo.performance import perform
    from tidings.cli.demo.place import placed

    options = Options(**given)
    with placed(options) as place:
        code = asyncio.run(perform(options, place))
    sys.exit(code)
