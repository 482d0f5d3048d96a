"""Judges a run by its evidence: the invariants of the ledger, and whether every fault that was planned has happened."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable

import msgspec

from tests.crash.evidence import Effect, Evidence
from tests.crash.plan import (
    FROZEN,
    NOTED,
    PUBLISHER,
    PUBLISHING,
    RETURNED,
    SOLD,
    STOPPED,
    Plan,
    event,
    in_order,
)
from tests.crash.service import shared

ACCOUNTS = {
    SOLD: ("book", "tally", "shipped"),
    RETURNED: ("book", "tally", "printed", "hear"),
    NOTED: ("note",),
}
"""In which accounts an event of each kind has to have its effect."""
NO_WORKER_DIES = {PUBLISHER, FROZEN, STOPPED, *PUBLISHING}


class Report(msgspec.Struct, kw_only=True):
    """One run. Counts of effects are over all accounts; durations in seconds."""

    seed: int
    attempted: int
    acked: int
    unknown: int
    """Attempted without an acknowledgement: may have been kept, then they count like the others."""
    unknown_kept: int
    effects_once: int
    lost: int
    phantom: int
    duplicates: int
    inversions: int
    deliveries_mean: float
    deliveries_max: int
    dead: int
    pending: int
    first_effect_p50: float | None
    """After the kill of a worker, until the first effect on a key that it worked on."""
    first_effect_max: float | None
    drained: float | None
    """From the last acknowledged publish until nothing was left to do; None where that was never so."""
    seconds: float
    faults: dict[str, int]
    problems: list[str]

    @property
    def line(self) -> str:
        """The run in one line."""
        verdict = "ok" if not self.problems else "FAILED"
        kept = f"{self.effects_once} effects once, {self.dead} dead, {self.pending} pending"
        wrong = f"lost {self.lost}, phantom {self.phantom}, duplicate {self.duplicates}, inverted {self.inversions}"
        times = f"first effect p50 {self.first_effect_p50} max {self.first_effect_max} s, drained {self.drained} s"
        return (
            f"{verdict} seed {self.seed}: {self.acked} acked + {self.unknown} unknown ({self.unknown_kept} kept), "
            f"{kept}; {wrong}; deliveries mean {self.deliveries_mean} max {self.deliveries_max}; "
            f"{sum(self.faults.values())} faults of {len(self.faults)} kinds, {times}, {self.seconds} s"
        )


def judge(plan: Plan, evidence: Evidence) -> Report:
    """Count, and say in sentences what must not be."""
    effects = Counter((effect.account, effect.number) for effect in evidence.effects)
    effects.update(dict.fromkeys((start for start in evidence.starts if start[0] == "hear"), 1))
    outcomes = effects + evidence.dead
    unknown = evidence.attempted - evidence.acked
    kept = {number for _, number in outcomes if number in unknown}
    due = {(account, number) for number in evidence.acked | kept for account in ACCOUNTS[event(plan, number).kind]}
    lost = due - outcomes.keys()
    phantom = outcomes.keys() - due
    duplicates = {what: count for what, count in outcomes.items() if count > 1}
    inverted = inversions(evidence.effects)
    waits = first_effects(evidence)
    deliveries = list(evidence.starts.values())
    return Report(
        seed=plan.seed,
        attempted=len(evidence.attempted),
        acked=len(evidence.acked),
        unknown=len(unknown),
        unknown_kept=len(kept),
        effects_once=sum(count == 1 for count in effects.values()),
        lost=len(lost),
        phantom=len(phantom),
        duplicates=sum(duplicates.values()) - len(duplicates),
        inversions=len(inverted),
        deliveries_mean=round(statistics.fmean(deliveries), 3) if deliveries else 0.0,
        deliveries_max=max(deliveries, default=0),
        dead=evidence.dead.total(),
        pending=evidence.pending,
        first_effect_p50=round(statistics.median(waits), 2) if waits else None,
        first_effect_max=round(max(waits), 2) if waits else None,
        drained=evidence.drained and round(evidence.drained, 2),
        seconds=round(evidence.seconds, 1),
        faults=dict(sorted(Counter(fault.kind for fault in evidence.faults).items())),
        problems=[
            *some("lost", lost),
            *some("phantom", phantom),
            *some("more than once", duplicates),
            *some("out of order", inverted),
            *never_fired(plan, evidence),
            *others(plan, evidence, effects),
        ],
    )


def inversions(effects: Iterable[Effect]) -> list[tuple[str, int]]:
    """Effects that came after that of a later event of their key."""
    latest: dict[tuple[str, str], int] = {}
    found = []
    for effect in effects:
        if effect.key and in_order(effect.key):
            before = latest.get((effect.account, effect.key), -1)
            if effect.number < before:
                found.append((effect.account, effect.number))
            latest[effect.account, effect.key] = max(before, effect.number)
    return found


def first_effects(evidence: Evidence) -> list[float]:
    """For every worker that was killed: how long the keys that it worked on stood still."""
    by_key: dict[str, list[Effect]] = defaultdict(list)
    for effect in evidence.effects:
        if effect.account == "book" and effect.at:
            by_key[effect.key].append(effect)
    waits = []
    for fault in evidence.faults:
        later: list[float] = []
        for effects in by_key.values() if fault.kind not in NO_WORKER_DIES else ():
            place = bisect_right([effect.at for effect in effects], fault.at)
            if 0 < place < len(effects) and effects[place - 1].pid == fault.pid:
                later.append(effects[place].at - fault.at)
        waits += [min(later)] if later else []
    return waits


def never_fired(plan: Plan, evidence: Evidence) -> list[str]:
    """The faults that were planned and did not happen: then the run has proved nothing about them."""
    fired = Counter(fault.kind for fault in evidence.faults)
    missing = plan.faults() - fired
    return [f"{kind}: planned {plan.faults()[kind]}, fired {fired[kind]}" for kind in sorted(missing)]


def others(plan: Plan, evidence: Evidence, effects: Counter[tuple[str, int]]) -> list[str]:
    """What else must not be at the end of a run."""
    problems = list(evidence.crashes)
    if len(evidence.attempted) != plan.events:
        problems.append(f"only {len(evidence.attempted)} of {plan.events} events were published")
    if evidence.pending:
        problems.append(f"{evidence.pending} deliveries are still pending")
    if evidence.drained is None:
        problems.append("the backlog was never worked off")
    if evidence.integrity != "ok":
        problems.append(f"the database is damaged: {evidence.integrity}")
    tallied = sorted(number for account, number in effects if account == "tally" and shared(number))
    if sorted(evidence.shared) != tallied:
        problems.append(f"the row that all processes write to has {len(evidence.shared)} entries, not {len(tallied)}")
    return problems


def some(what: str, found: Iterable[tuple[str, int]]) -> list[str]:
    """A sentence that names the first few."""
    every = sorted(found)
    examples = ", ".join(f"{account} {number}" for account, number in every[:8])
    return [f"{what}: {len(every)} ({examples}{', …' if len(every) > 8 else ''})"] if every else []
