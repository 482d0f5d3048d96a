"""`tidings run`: the handlers of apps, in this process or in several under a supervisor."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from tidings.cli.target import broker_option, load_all

if TYPE_CHECKING:
    from tidings.app import App
    from tidings.cli.lifeline import Lifeline
    from tidings.cli.witness import Witness
    from tidings.observe.lookout import Watch
    from tidings.runtime import Runtime

log = logging.getLogger("tidings")

EXIT = 1.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    targets: tuple[str, ...]
    workers: int
    reload: bool
    broker: str | None
    store: str | None
    grace: float | None
    metrics_host: str
    metrics_port: int | None
    log: Any
    log_level: str
    lifeline: int | None
    recorder: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """Those that win over the apps' own."""
        return {"broker": self.broker, "store": self.store, "grace": self.grace}


@click.command(short_help="Run the handlers of one or more apps.")
@click.argument("targets", metavar="MODULE:APP...", nargs=-1, required=True)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="How many processes share the work."
)
@click.option(
    "--reload", is_flag=True, help="Start again when a .py file in the folders of the loaded modules changes."
)
@broker_option
@click.option("--store", metavar="URL", help="Where Tables are kept, if not in the broker's database.")
@click.option(
    "--grace", type=click.FloatRange(min=0), metavar="S", help="Seconds to finish what was begun when told to stop."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="P",
    help="Serve /metrics, /healthz and /readyz there. One registry a process: the second worker has P+1, and so on.",
)
@click.option("--metrics-host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where that listens.")
@click.option("--log", type=click.Choice(["json", "text"]), help="How to log: text on a terminal, else json.")
@click.option("--json", "as_json", is_flag=True, help="The same as --log json: each line a JSON object.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--lifeline", type=int, hidden=True, help="The socket to the supervisor that started this process.")
@click.option("--recorder", type=int, hidden=True, help="The file in which it looks when this process has died.")
def run(as_json: bool, **given: Any) -> None:
    """Run the handlers of one or more apps until SIGTERM or Ctrl-C.

    MODULE:APP names an App or a list of them, such as shop.orders:app; the working folder is on the path. Ends with
    exit code 0 if everything that was begun has been settled, 3 if the grace time was over before.
    """
    if as_json:
        given["log"] = "json"
    options = Options(**given)
    from tidings.observe import logs

    logs.configure(options.log, options.log_level)
    alone = options.lifeline is not None or (options.workers == 1 and not options.reload)
    _exit(work(options) if alone else _supervise(options))


def work(options: Options) -> int:
    """Run the apps in this process; returns the exit code."""
    from tidings.runtime import FAILED

    witness = _witness(options.recorder)
    lifeline = _lifeline(options.lifeline, witness)
    apps = load_all(options.targets)
    for app in apps:
        app.inquest = witness
    _trace(apps)
    watch = _watch(apps, options)
    if lifeline is not None:
        lifeline.begin(watch.grace)
    try:
        return asyncio.run(_serve(apps, options, watch, lifeline))
    except ExceptionGroup as died:
        log.critical("a worker died", exc_info=died)
        return FAILED


def _witness(descriptor: int | None) -> Witness | None:
    from tidings.cli.recorder import Recorder
    from tidings.cli.witness import Witness

    return None if descriptor is None else Witness(Recorder(descriptor))


def _lifeline(descriptor: int | None, witness: Witness | None) -> Lifeline | None:
    from tidings.cli.lifeline import Lifeline

    return None if descriptor is None else Lifeline(descriptor, None if witness is None else witness.heard)


def _watch(apps: Sequence[App], options: Options) -> Watch:
    from tidings.observe.lookout import Watch
    from tidings.runtime import Runtime

    configs = [Runtime(apps, **options.settings).config_of(app) for app in apps]
    wanted = {config.stall_exit for config in configs}
    return Watch(
        stall=min(config.stall for config in configs),
        stall_exit=True if True in wanted else None if None in wanted else False,
        grace=max(config.grace for config in configs),
        supervised=options.lifeline is not None,
        host=options.metrics_host,
        port=options.metrics_port,
    )


async def _serve(apps: Sequence[App], options: Options, watch: Watch, lifeline: Lifeline | None) -> int:
    from tidings.observe.lookout import Lookout
    from tidings.observe.watchdog import SOFTWARE
    from tidings.runtime import serve

    stop = asyncio.Event()
    async with Lookout(apps, watch, stop) as lookout:

        async def ready(runtime: Runtime) -> None:
            lookout.attach(runtime)
            _end_at_the_second_interrupt(stop)
            handlers = ", ".join(worker.bound.name for worker in runtime.workers)
            log.info("process %d listens: %s", os.getpid(), handlers or "no handlers")
            if lookout.port is not None:
                log.info("metrics and health on http://%s:%d", options.metrics_host, lookout.port)
            if lifeline is not None:
                lifeline.ready()

        code = await serve(apps, ready=ready, stop=stop, **options.settings)
        if lookout.hung:
            code = SOFTWARE
        _end_soon(code)  # a task that ignores its cancellation would keep the loop from ending
        return code


def _end_at_the_second_interrupt(stop: asyncio.Event) -> None:
    """Who presses Ctrl-C again does not want to wait for the grace time. What is not settled is lent again."""
    from tidings.observe.watchdog import end
    from tidings.runtime import GAVE_UP

    interrupts = itertools.count(1)

    def interrupt() -> None:
        stop.set()
        if next(interrupts) > 1:
            end(GAVE_UP)

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)


def _trace(apps: Sequence[App]) -> None:
    """Where one of the modules has configured OpenTelemetry; nobody else pays for its import."""
    if "opentelemetry.trace" in sys.modules:
        from tidings.observe import tracing

        for app in apps:
            tracing.install(app)


def _supervise(options: Options) -> int:
    from tidings.cli.supervisor import Supervisor

    def command(index: int) -> list[str]:
        return [sys.executable, "-m", "tidings", "run", *_arguments(options, index)]

    targets = options.targets if options.reload else ()
    return asyncio.run(Supervisor(command, workers=options.workers, reload=targets).run())


def _arguments(options: Options, index: int) -> list[str]:
    """Those of one worker process."""
    port = options.metrics_port and options.metrics_port + index
    named = {
        "--broker": options.broker,
        "--store": options.store,
        "--grace": options.grace,
        "--metrics-host": options.metrics_host,
        "--metrics-port": port,
        "--log": options.log,
        "--log-level": options.log_level,
    }
    return [*options.targets, *(f"{name}={value}" for name, value in named.items() if value is not None)]


def _exit(code: int) -> NoReturn:
    """Exit as usual, which waits for threads; but only a second for one that hangs in a handler."""
    _end_soon(code)
    sys.exit(code)


def _end_soon(code: int) -> None:
    if code:
        giving_up = threading.Timer(EXIT, os._exit, [code])
        giving_up.daemon = True
        giving_up.start()
