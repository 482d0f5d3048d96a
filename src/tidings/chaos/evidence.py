"""What a run has left behind: journals, effects, dead letters, what is pending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from tidings.chaos.books import Effect, effects
from tidings.chaos.faults import Fault
from tidings.chaos.journal import Entries, read
from tidings.chaos.plan import Plan
from tidings.chaos.service import NAME, SHARED, TALLY, account_of
from tidings.chaos.site import Site


class Peaks(msgspec.Struct):
    """The most that was ever seen, in bytes; None where nobody could look."""

    memory: int | None = None
    """Of one worker."""
    wal: int | None = None
    database: int | None = None

    def see(self, *sizes: int | None) -> None:
        """One more look, in the order of the fields."""
        for name, size in zip(self.__struct_fields__, sizes, strict=True):
            if size is not None:
                setattr(self, name, max(getattr(self, name) or 0, size))


class Evidence(msgspec.Struct, kw_only=True):
    """All there is to judge a run by. What may be long is read once, from where it lies.

    `effects` are in the order of their commits, at least within account and key.
    """

    journal: Entries = msgspec.field(default_factory=Entries)
    effects: Iterable[Effect] = ()
    starts: Iterable[tuple[str, int]] = ()
    dead: Iterable[tuple[str, int]] = ()
    shared: list[int] = msgspec.field(default_factory=list)
    pending: int = 0
    faults: list[Fault] = msgspec.field(default_factory=list)
    problems: list[str] = msgspec.field(default_factory=list)
    damage: str = ""
    peaks: Peaks = msgspec.field(default_factory=Peaks)
    drained: float | None = None
    seconds: float = 0.0


def collect(plan: Plan, folder: Path, site: Site) -> Evidence:
    """Read what the processes have left in the run's folder, and at its site."""
    evidence = Evidence()
    for index in range(plan.publishers):
        entries = read(folder / f"journal-{index}")
        evidence.journal.attempted |= entries.attempted
        evidence.journal.acked |= entries.acked
        evidence.journal.again |= entries.again
        evidence.journal.torn += entries.torn
    tallies = _tallies(site)
    evidence.shared = tallies.pop(SHARED, [])
    evidence.effects = _effects(site, tallies)
    evidence.starts = _starts(folder / "starts")
    evidence.dead = ((account_of(handler, type), number) for handler, type, number in site.dead())
    evidence.pending = site.look().pending
    evidence.damage = site.books.damage()
    return evidence


def _effects(site: Site, tallies: dict[str, list[int]]) -> Iterator[Effect]:
    yield from effects(site.books)
    for key, numbers in tallies.items():
        yield from (Effect(TALLY, number, key) for number in numbers)


def _tallies(site: Site) -> dict[str, list[int]]:
    """What the tally holds for each key, its blocks in a row."""
    blocks: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for row, numbers in site.books.rows(f"{NAME}.{TALLY}"):
        key, _, block = row.rpartition("/")
        blocks[key][int(block)] = numbers
    return {key: [number for block in sorted(found) for number in found[block]] for key, found in blocks.items()}


def _starts(path: Path) -> Iterator[tuple[str, int]]:
    with path.open() as file:
        for line in file:
            account, number = line.split()
            yield account, int(number)
