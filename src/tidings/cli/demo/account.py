"""The ledger for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tidings.cli.demo.ledger import Ledger
from tidings.cli.letters import Letter
from tidings.cli.output import plain


def tell(ledger: Ledger, letters: Sequence[Letter], console: Console) -> None:
    """Print what went in and what came of it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("service", style="bold")
    table.add_column("effects", justify="right")
    for service, effects in ledger.effects.items():
        table.add_row(service, Text(f"{effects:,}", "" if effects == ledger.orders else "yellow"))
    console.print(table)
    console.print(Text.assemble(
        (f"{ledger.orders:,}", "bold"), " orders   lost ", verdict(ledger.lost), "   duplicated ",
        verdict(ledger.duplicated), f"   dead letters {ledger.dead:,}   workers killed {ledger.kills}",
    ))  # fmt: skip
    console.print(
        f"{ledger.sales.cds:,} pieces sold for {ledger.sales.dollars} dollars"
        f"   {ledger.seconds:.1f} s, {ledger.orders_per_second:,.0f} orders/s"
    )
    if ledger.recovery is not None:
        console.print(f"all that was placed before a kill was done {ledger.recovery:.1f} s after it")
    for (handler, error, cause), count in causes(letters):
        console.print(Text(f"dead in {handler}: {count:,} x {error}: {plain(cause)}", "red"), soft_wrap=True)


def causes(letters: Sequence[Letter]) -> list[tuple[tuple[str, str, str], int]]:
    """What letters died of, the most frequent first; one cause for each error, as an example."""
    example = {(letter.handler, letter.error): letter.cause for letter in reversed(letters)}
    counts = Counter((letter.handler, letter.error) for letter in letters)
    return [((*of, example[of]), count) for of, count in counts.most_common()]


def verdict(count: int) -> Text:
    """Nothing is good."""
    return Text(f"{count:,}", "bold red" if count else "bold green")
