"""The group of commands, each imported only when it is called, so that `tidings --help` is quick."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

import click

from tidings.errors import DefinitionError, TidingsError

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit codes: it went wrong; what was asked for cannot be; Ctrl-C."""


class Entry(NamedTuple):
    """Where a command is, and what `--help` says of it."""

    source: str
    help: str


COMMANDS = {
    "demo": Entry(
        "tidings.cli.demo:demo", "A web shop of several services works off real orders, and survives a kill -9."
    ),
    "new": Entry("tidings.cli.new:new", "Begin a service: a folder with an app, a handler and its test."),
    "run": Entry("tidings.cli.run:run", "Run the handlers of one or more apps."),
    "publish": Entry("tidings.cli.publish:publish", "Publish an event."),
    "tail": Entry("tidings.cli.tail:tail", "Show events as they are published."),
    "topics": Entry("tidings.cli.topics:topics", "List the topics and what they hold."),
    "groups": Entry("tidings.cli.groups:groups", "List the handlers' groups: lag, age, rate, time to drain."),
    "dead": Entry("tidings.cli.dead:dead", "Dead letters: list, show, edit, replay, drop."),
    "replay": Entry("tidings.cli.replay:replay", "Move a group back, to handle events again."),
    "migrate": Entry("tidings.cli.migrate:migrate", "Move the events of a file to another broker, while the app runs."),
    "bridge": Entry("tidings.cli.bridge:bridge", "Publish at one broker what is published at another."),
    "doctor": Entry("tidings.cli.doctor:doctor", "Check the database, the settings and what they promise."),
    "simulate": Entry("tidings.cli.simulate:simulate", "Play apps by the thousand, in virtual time and under faults."),
    "chaos": Entry("tidings.cli.chaos:chaos", "Kill and freeze real processes, and count what was lost or doubled."),
    "flood": Entry("tidings.cli.flood:flood", "Put an app under load: latency, rate, lag, where lag begins to grow."),
    "dev": Entry("tidings.cli.dev:dev", "Start real servers on this machine, for development and tests."),
    "bench": Entry("tidings.cli.bench:bench", "Measure this machine, beside a hand-written loop."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; its help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].source.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tidings")
def cli() -> None:
    """Events between services, durable from the first line."""


def main() -> None:
    """Run the command line; what goes wrong as we know it is one sentence, not a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(WRONG)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains once more when it flushes
        sys.exit(FAILED)
    except TidingsError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG if isinstance(error, DefinitionError) else FAILED)
