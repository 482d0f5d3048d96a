"""Run the rows and write what they report: `python -m tests.matrix [--row NUMBER] [--write FILE]`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import click

from bench import machine
from bench.report import replace_section
from tests.matrix import Figures, Row, rows

METHOD = """\
Each row is a module in `tests/matrix/` that makes the fault happen to real processes, files and locks, and fails
where something does not hold. Written by `make reliability`: run it, and the section is replaced by what your
machine says."""


def shown(figures: Figures) -> str:
    """The figures in a cell."""
    return "; ".join(f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}"
                     for name, value in figures.items())  # fmt: skip


def measure(row: Row) -> Figures:
    """Run a row in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=machine.disk()) as folder, contextlib.chdir(folder):
        return asyncio.run(row.run(Path(folder)))


def line(row: Row, figures: Figures, seconds: float) -> str:
    """The row of the table."""
    return f"| {row.number} | {row.fault} | {row.expected} | {shown(figures)} | {seconds:.1f} |"


def written(path: Path) -> dict[str, str]:
    """The lines that the document has, by the numbers of their rows."""
    section = path.read_text().partition("<!-- matrix -->")[2].partition("<!-- /matrix -->")[0] if path.exists() else ""
    return {number: text for text in section.splitlines() if (number := text[2:].partition(" ")[0])[:1].isdigit()}


def table(lines: Mapping[str, str]) -> str:
    """The section of the document."""
    known = [lines[row.number] for row in rows() if row.number in lines]
    return "\n".join([
        "## The embedded broker under faults",
        "",
        f"{machine.described()}.",
        "",
        "| # | fault | what holds | measured | took, s |",
        "| --- | --- | --- | --- | ---: |",
        *known,
        "",
        METHOD,
    ])  # fmt: skip


@click.command()
@click.option(
    "--row", "wanted", multiple=True, help="Only this number, several times for more; of the document its line only."
)
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Put the table into this document.")
def main(wanted: tuple[str, ...], write: Path | None) -> None:
    """Run the rows, say what they report."""
    chosen = [row for row in rows() if not wanted or row.number in wanted]
    if not chosen:
        raise click.UsageError(f"there is no row {', '.join(wanted)}; there are {', '.join(r.number for r in rows())}")
    lines: dict[str, str] = {}
    failed: list[str] = []
    for row in chosen:
        began = time.monotonic()
        try:
            figures = measure(row)
        except Exception as error:  # noqa: BLE001 - whatever it is, the row does not hold; the others are run
            figures = {"**does not hold**": str(error).partition("\n")[0] or type(error).__name__}
            failed.append(row.number)
            traceback.print_exc()
        lines[row.number] = line(row, figures, time.monotonic() - began)
        click.echo(f"{row.number} {row.fault}: {shown(figures)}", file=sys.stderr)
    if write is not None:
        replace_section(write, "matrix", table(written(write) | lines))
    if failed:
        click.echo(f"rows that do not hold: {', '.join(failed)}", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
