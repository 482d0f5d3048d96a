"""Judges a run by its evidence: the invariants of the ledger, and whether every fault that was planned has happened."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tidings.chaos.books import Effect
from tidings.chaos.evidence import Evidence, Peaks
from tidings.chaos.faults import Fault
from tidings.chaos.plan import (
    FREEZE,
    KILL_PUBLISHER,
    ON_BROKER,
    PUBLISHER,
    REPUBLISH,
    ROLL,
    STOP,
    Place,
    Plan,
    happening,
    in_order,
)
from tidings.chaos.service import ACCOUNTS, TALLY, shared

NO_WORKER_DIES = {KILL_PUBLISHER, FREEZE, STOP, ROLL}
"""How long it takes until the next effect says nothing of a worker's death. Broker faults count: from their end."""
EXAMPLES = 8
TIMED = "book"
"""The account whose effects say when."""

Numbered = tuple[str, int]
"""An account and a number."""


class Report(msgspec.Struct, kw_only=True):
    """One run. Counts of effects are over all accounts; durations in seconds, sizes in bytes."""

    seed: int
    profile: str
    events: int
    attempted: int
    acked: int
    unknown: int
    """Attempted without an acknowledgement: may have been kept, then they count like the others."""
    unknown_kept: int
    effects_once: int
    lost: int
    phantom: int
    duplicate_effects: int
    deliveries_mean: float
    deliveries_max: int
    inversions: int
    dead: int
    pending: int
    first_effect_p50: float | None
    """After the kill of a worker, until the first effect on a key that it worked on."""
    first_effect_max: float | None
    takeover_max: float | None
    """The same after a worker was frozen: nobody sees that it is dead before its lease has ended."""
    slowest: dict[str, float]
    """The longest time until a first effect, by kind of fault."""
    waits: dict[str, list[float]]
    """All of these times."""
    drained: float | None
    """From the last acknowledged publish until nothing was left to do; None where that was never so."""
    memory_peak: int | None
    """Of one worker."""
    wal_peak: int | None
    database_peak: int | None
    torn: int
    """Lines of a journal that were cut off by the death of a publisher, and read up to there."""
    seconds: float
    faults: dict[str, int]
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    @property
    def line(self) -> str:
        """The run in one line."""
        kept = f"{self.effects_once} effects once, {self.dead} dead, {self.pending} pending"
        wrong = (
            f"lost {self.lost}, phantom {self.phantom}, duplicate {self.duplicate_effects}, inverted {self.inversions}"
        )
        times = f"first effect p50 {shown(self.first_effect_p50)} max {shown(self.first_effect_max)} s"
        sizes = f"worker {mib(self.memory_peak)}, WAL {mib(self.wal_peak)}, database {mib(self.database_peak)}"
        torn = f"; {self.torn} journal lines cut off, read up to there" if self.torn else ""
        return (
            f"{'ok' if self.ok else 'FAILED'} seed {self.seed}: {self.acked} acked + {self.unknown} unknown "
            f"({self.unknown_kept} kept), {kept}; {wrong}; deliveries mean {self.deliveries_mean} max "
            f"{self.deliveries_max}; {sum(self.faults.values())} faults of {len(self.faults)} kinds, {times}, "
            f"drained {shown(self.drained)} s; {sizes}{torn}; {self.seconds} s"
        )


def shown(figure: float | None) -> str:
    """A figure, or that there is none."""
    return "-" if figure is None else f"{figure:g}"


def mib(size: int | None) -> str:
    """A size for people."""
    return "-" if size is None else f"{size / 2**20:.0f} MiB"


class Counts:
    """How often each number came up in each account: a byte for each, so that a run of millions fits into memory."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._usual: dict[str, bytearray] = defaultdict(lambda: bytearray(size))
        self._strange: Counter[Numbered] = Counter()

    def add(self, account: str, number: int) -> None:
        """Once more; what is more often than a byte holds stays there."""
        if not 0 <= number < self._size:
            self._strange[account, number] += 1
        elif (counts := self._usual[account])[number] < 255:
            counts[number] += 1

    def at(self, account: str, number: int) -> int:
        """How often."""
        if not 0 <= number < self._size:
            return self._strange[account, number]
        return self._usual[account][number] if account in self._usual else 0

    def items(self) -> Iterator[tuple[Numbered, int]]:
        """All that came up."""
        for account, counts in self._usual.items():
            yield from (((account, number), count) for number, count in enumerate(counts) if count)
        yield from self._strange.items()


class Recovery:
    """For every worker that suffered: how long the keys that it worked on stood still."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.waits: dict[Fault, float] = {}
        self._by_pid: dict[int, list[Fault]] = defaultdict(list)
        self._latest: dict[str, Effect] = {}
        for fault in faults:
            self._by_pid[fault.pid].append(fault)
        self._of_broker = [fault for fault in self._by_pid[0] if fault.kind in ON_BROKER]

    def see(self, effect: Effect) -> None:
        """The next effect."""
        if effect.account != TIMED or not effect.at:
            return
        for fault in self._of_broker:
            if effect.at > fault.at:
                self.waits[fault] = min(self.waits.get(fault, effect.at - fault.at), effect.at - fault.at)
        before = self._latest.get(effect.key)
        self._latest[effect.key] = effect
        for fault in self._by_pid.get(before.pid, ()) if before else ():
            if before and before.at <= fault.at < effect.at:
                self.waits[fault] = min(self.waits.get(fault, effect.at), effect.at - fault.at)

    def by_kind(self) -> dict[str, list[float]]:
        """The waits of each kind of fault, in seconds."""
        found: dict[str, list[float]] = defaultdict(list)
        for fault, wait in self.waits.items():
            found[fault.kind].append(round(wait, 2))
        return {kind: sorted(found[kind]) for kind in sorted(found)}


class Ledger:
    """The books of a run, and what is wrong with them."""

    def __init__(self, plan: Plan, evidence: Evidence) -> None:
        self.plan = plan
        self.journal = evidence.journal
        self.effects = Counts(plan.events)
        self.outcomes = Counts(plan.events)
        self.starts = Counts(plan.events)
        self.dead = 0
        self.inverted: list[Numbered] = []
        self.recovery = Recovery(evidence.faults)
        self._latest: dict[tuple[str, str], int] = {}
        for effect in evidence.effects:
            self._book(effect)
        for account, number in evidence.starts:
            if account == "hear" and not self.starts.at(account, number):
                self.effects.add(account, number)
                self.outcomes.add(account, number)
            self.starts.add(account, number)
        for account, number in evidence.dead:
            self.outcomes.add(account, number)
            self.dead += 1
        self.duplicates = {what: count for what, count in self.outcomes.items() if count > 1}
        self.kept = {number for (_, number), _ in self.outcomes.items()} & (self.journal.attempted - self.journal.acked)
        self.lost = list(self._missing())
        self.phantom = [what for what, _ in self.outcomes.items() if not self._due(*what)]

    def _book(self, effect: Effect) -> None:
        self.effects.add(effect.account, effect.number)
        self.outcomes.add(effect.account, effect.number)
        self.recovery.see(effect)
        if effect.key and in_order(effect.key):
            before = self._latest.get((effect.account, effect.key), -1)
            if effect.number < before:
                self.inverted.append((effect.account, effect.number))
            self._latest[effect.account, effect.key] = max(before, effect.number)

    def _due(self, account: str, number: int) -> bool:
        if number not in self.journal.acked and number not in self.kept:
            return False
        return account in ACCOUNTS[happening(self.plan, number).kind]

    def _missing(self) -> Iterator[Numbered]:
        for number in (*self.journal.acked, *self.kept):
            for account in ACCOUNTS[happening(self.plan, number).kind]:
                if not self.outcomes.at(account, number):
                    yield account, number


def judge(plan: Plan, evidence: Evidence, places: Mapping[str, Place]) -> Report:
    """Count, and say in sentences what must not be."""
    ledger = Ledger(plan, evidence)
    fired = Counter(fault.kind for fault in evidence.faults) + Counter({REPUBLISH: len(evidence.journal.again)})
    harmless = NO_WORKER_DIES | {name for name, place in places.items() if place.role == PUBLISHER}
    waits = [wait for fault, wait in ledger.recovery.waits.items() if fault.kind not in harmless]
    takeovers = [wait for fault, wait in ledger.recovery.waits.items() if fault.kind == FREEZE]
    deliveries = [count for _, count in ledger.starts.items()]
    by_kind = ledger.recovery.by_kind()
    return Report(
        seed=plan.seed,
        profile=plan.profile,
        events=plan.events,
        attempted=len(evidence.journal.attempted),
        acked=len(evidence.journal.acked),
        unknown=len(evidence.journal.attempted - evidence.journal.acked),
        unknown_kept=len(ledger.kept),
        effects_once=sum(count == 1 for _, count in ledger.effects.items()),
        lost=len(ledger.lost),
        phantom=len(ledger.phantom),
        duplicate_effects=sum(ledger.duplicates.values()) - len(ledger.duplicates),
        inversions=len(ledger.inverted),
        deliveries_mean=round(statistics.fmean(deliveries), 3) if deliveries else 0.0,
        deliveries_max=max(deliveries, default=0),
        dead=ledger.dead,
        pending=evidence.pending,
        first_effect_p50=_rounded(statistics.median(waits) if waits else None),
        first_effect_max=_rounded(max(waits, default=None)),
        takeover_max=_rounded(max(takeovers, default=None)),
        slowest={kind: max(waits) for kind, waits in by_kind.items()},
        waits=by_kind,
        drained=_rounded(evidence.drained),
        **_sizes(evidence.peaks),
        torn=evidence.journal.torn,
        seconds=round(evidence.seconds, 1),
        faults=dict(sorted(fired.items())),
        problems=[*_wrong(ledger), *_never_fired(plan.planned(places), fired), *_others(ledger, evidence)],
    )


def _sizes(peaks: Peaks) -> dict[str, int | None]:
    return {f"{name}_peak": getattr(peaks, name) for name in peaks.__struct_fields__}


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 2)


def _wrong(ledger: Ledger) -> list[str]:
    return [
        *_some("lost", ledger.lost),
        *_some("phantom", ledger.phantom),
        *_some("more than once", ledger.duplicates),
        *_some("out of order", ledger.inverted),
    ]


def _some(what: str, found: Iterable[Numbered]) -> list[str]:
    """A sentence that names the first few."""
    every = sorted(found)
    examples = ", ".join(f"{account} {number}" for account, number in every[:EXAMPLES])
    return [f"{what}: {len(every)} ({examples}{', …' if len(every) > EXAMPLES else ''})"] if every else []


def _never_fired(planned: Counter[str], fired: Counter[str]) -> list[str]:
    """The faults that were planned and did not happen: then the run has proved nothing about them."""
    return [f"{kind}: planned {planned[kind]}, fired {fired[kind]}" for kind in sorted(planned - fired)]


def _others(ledger: Ledger, evidence: Evidence) -> list[str]:
    """What else must not be at the end of a run."""
    problems = list(evidence.problems)
    if len(evidence.journal.attempted) != ledger.plan.events:
        problems.append(f"only {len(evidence.journal.attempted)} of {ledger.plan.events} events were published")
    if evidence.pending:
        problems.append(f"{evidence.pending} deliveries are still pending")
    if evidence.drained is None:
        problems.append("the backlog was never worked off")
    if evidence.damage:
        problems.append(f"the database is damaged: {evidence.damage}")
    tallied = sorted(number for (account, number), _ in ledger.effects.items() if account == TALLY and shared(number))
    if sorted(evidence.shared) != tallied:
        problems.append(f"the row that all processes write to has {len(evidence.shared)} entries, not {len(tallied)}")
    return problems
