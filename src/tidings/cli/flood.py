"""`tidings flood`: load on an app, as much and as fast as it is asked for, and what it makes of it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tidings.cli.main import FAILED
from tidings.cli.output import WIDE, counted, progress, to_json
from tidings.cli.target import load_all
from tidings.errors import BrokerError, InvalidEvent

if TYPE_CHECKING:
    from tidings.app import App
    from tidings.flood.figures import Figures
    from tidings.flood.load import Load
    from tidings.flood.stream import Stream

SECONDS = 30.0
SHOP = ("examples.shop", "tidings.examples.shop")
MOST = 5_000_000
"""Events in a flood: each takes some tens of bytes of memory for each handler, until the end."""


class Amount(click.FloatRange):
    """A number that has an end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click.ParamType.convert."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number that has an end.", param, ctx)
        return number


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    targets: tuple[str, ...]
    event: tuple[str, str] | None
    events: str | None
    keys: int
    key: str | None
    workers: int
    broker: str | None
    store: str | None
    patience: float
    remote_is_mine: bool
    report: Path | None
    as_json: bool


@click.command(short_help="Put an app under load: latency, rate, lag, and where lag begins to grow.")
@click.argument("targets", metavar="MODULE:APP...", nargs=-1, required=True)
@click.option("--event", nargs=2, metavar="TYPE JSON", help="A sample of what arrives, varied by its key.")
@click.option(
    "--events",
    metavar="FILE|MODULE:FUNCTION",
    help="What arrives: JSON lines as `tidings tail --json` prints them, or a function that yields events.",
)
@click.option(
    "--keys", type=click.IntRange(1, 50_000), default=1000, show_default=True, help="How many keys a sample has."
)
@click.option("--key", metavar="FIELD", help="The field by which a sample is varied, if not its class's key.")
@click.option(
    "--rate", type=Amount(0, min_open=True), default=100.0, show_default=True, metavar="N/s", help="Events a second."
)
@click.option(
    "--seconds",
    type=Amount(0, min_open=True),
    metavar="S",
    help="For how long events arrive; 30, or the length of the recording.",
)
@click.option(
    "--arrival",
    type=click.Choice(["constant", "ramp", "spike", "poisson", "replay"]),
    default="constant",
    show_default=True,
    help="How: evenly, ever more, with a spike in the middle, as chance has it, as recorded.",
)
@click.option("--first", type=Amount(0), default=0.0, metavar="N/s", help="The rate at which a ramp begins.")
@click.option(
    "--peak", type=Amount(0, min_open=True), metavar="N/s", help="The rate of a spike; five times --rate by default."
)
@click.option(
    "--speed", type=Amount(0, min_open=True), default=1.0, show_default=True, metavar="N", help="How fast a replay is."
)
@click.option("--seed", type=int, default=1, show_default=True, help="What chance is drawn from.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many processes work.")
@click.option("--broker", metavar="URL", help="Flood this broker, and what is in it; a temporary file by default.")
@click.option("--store", metavar="URL", help="Where Tables are kept, if not in the broker's database.")
@click.option("--remote-is-mine", is_flag=True, help="The broker may be on another machine.")
@click.option(
    "--patience", type=Amount(0, min_open=True), default=60.0, show_default=True, metavar="S",
    help="Seconds without progress after which what is left is given up.",
)  # fmt: skip
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a report with charts: one .html file, or the charts alone as .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def flood(**given: Any) -> None:
    """Let events arrive at an app and measure what it makes of them.

    The handlers run in worker processes of their own, on a temporary database. Arrival does not wait: every latency
    counts from when the event was due. Exit code 0 if every event was kept and settled, 1 if one was lost, refused,
    left or given up, 2 for what cannot be.
    """
    load_names = ("arrival", "rate", "seconds", "first", "peak", "speed", "seed")
    load = {name: given.pop(name) for name in load_names}
    options = Options(**given)
    try:
        figures = _flood(options, load)
    except (BrokerError, InvalidEvent) as error:
        raise click.ClickException(str(error)) from error
    _tell(figures, options)
    sys.exit(0 if figures.fine else FAILED)


def _flood(options: Options, wanted: dict[str, Any]) -> Figures:
    from tidings.flood import place
    from tidings.flood.figures import figures
    from tidings.flood.run import Wish, flood

    if options.broker is not None:
        place.check(options.broker, remote_is_mine=options.remote_is_mine)
    if options.report is not None and not options.report.parent.is_dir():
        raise click.UsageError(f"--report {options.report}: there is no folder {options.report.parent}.")
    apps = load_all(options.targets)
    stream = _stream(options, apps)
    load = _load(wanted, stream)
    wish = Wish(
        targets=options.targets, load=load, workers=options.workers, broker=options.broker, store=options.store,
        patience=options.patience,
    )  # fmt: skip
    count = 0 if load.most > MOST else len(load.times(stream.times))
    if not count:
        raise click.UsageError(f"That makes {counted(int(load.most), 'event')}; a flood has 1 to {MOST:,}.")
    evidence = asyncio.run(flood(wish, apps, stream, partial(progress, quiet=options.as_json)))
    return figures(evidence, load, apps=[app.name for app in apps], workers=options.workers)


def _load(wanted: dict[str, Any], stream: Stream) -> Load:
    from tidings.flood.load import Load

    for name, default, arrival in (("first", 0.0, "ramp"), ("peak", None, "spike"), ("speed", 1.0, "replay")):
        if wanted[name] != default and wanted["arrival"] != arrival:
            raise click.UsageError(f"--{name} is for --arrival {arrival}.")
    given: dict[str, Any] = {**wanted, "seconds": wanted["seconds"] or SECONDS}
    load = Load(**given)
    if load.arrival != "replay":
        return load
    if not stream.times:
        raise click.UsageError("--arrival replay needs --events FILE in which every line has a time.")
    length = max((stream.times[-1] - stream.times[0]) / load.speed, 0.001)
    return msgspec.structs.replace(load, seconds=wanted["seconds"] or length)


def _stream(options: Options, apps: Sequence[App]) -> Stream:
    from tidings.flood.stream import Known

    if options.event is not None and options.events is not None:
        raise click.UsageError("Give --event or --events, not both.")
    known = Known(apps)
    if options.event is not None:
        return known.sample(*options.event, keys=options.keys, field=options.key)
    spec = options.events or _shop(options.targets)
    if spec is None:
        raise click.UsageError("Say what arrives: --event TYPE JSON, or --events FILE.")
    module, colon, _ = spec.partition(":")
    if colon and module.replace(".", "").isidentifier():
        return known.made(spec)
    with progress("reading", quiet=options.as_json) as bar:
        stream = known.recording(Path(spec), bar)
    if stream.left_out:
        click.echo(
            f"Left out {counted(stream.left_out, 'event')} that these apps had published in answer: they will again.",
            err=True,
        )
    return stream


def _shop(targets: Sequence[str]) -> str | None:
    """The orders of the shop, where that is flooded."""
    for target in targets:
        for name in SHOP:
            if target.partition(":")[0] == name:
                return f"{name}.replay:orders"
    return None


def _tell(figures: Figures, options: Options) -> None:
    from rich.console import Console

    from tidings.flood.chart import svg
    from tidings.flood.page import charts, page
    from tidings.flood.terminal import tell

    if options.as_json:
        click.echo(to_json(msgspec.to_builtins(figures)))
    else:
        tell(figures, Console(highlight=False, width=None if sys.stdout.isatty() else WIDE))
    if options.report is not None:
        alone = options.report.suffix == ".svg"
        try:
            options.report.write_text(svg(charts(figures)) if alone else page(figures), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{options.report} cannot be written: {error.strerror}.") from error
