"""Every decision of a simulated run, so that it can be played again, and again with fewer of them.

A decision is a number below `n`, asked for under a label; 0 is what happens where nothing goes wrong. Only what is
not 0 is kept, under its label and the how-manieth question it was: to shrink a run is to leave some of these out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

Place = tuple[str, int]
"""A label, and how often it had been asked under that label before."""
Choices = dict[Place, int]

STEP = "step"
"""Which of the ready tasks is next; counted in steps of the loop."""


class Tape:
    """Decides: by chance, and remembers; or as it is told, and nothing goes wrong beyond that.

    `rates` say how often, by label, something other than 0 is chosen; a label without a rate is never anything else.
    """

    def __init__(self, seed: int, rates: Mapping[str, float], choices: Mapping[Place, int] | None = None) -> None:
        self.choices: Choices = dict(choices) if choices is not None else {}
        self.played: Choices = {}
        """What came of it: the choices that were met."""
        self.quiet = False
        """Whether the time of faults is over: then all is 0."""
        self._told = choices is not None
        self.rates = rates
        self._chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        self._asked: Counter[str] = Counter()
        self._steps = sorted((at for label, at in self.choices if label == STEP), reverse=True)
        self.next_step = self._after(0)
        """At which step another than the first of the ready tasks is next; -1 for none any more."""

    def choose(self, n: int, label: str) -> int:
        """A number below `n`."""
        at = self._asked[label]
        self._asked[label] = at + 1
        if n < 2 or self.quiet:
            return 0
        if self._told:
            return self._play((label, at), self.choices.get((label, at), 0) % n)
        if self._chance.random() >= self.rates.get(label, 0.0):
            return 0
        return self._play((label, at), self._chance.randrange(1, n))

    def pick(self, n: int, step: int) -> int:
        """Which of `n` ready tasks is next, at the step `next_step`."""
        choice = self.choices.get((STEP, step), 0) % n if self._told else self._chance.randrange(n)
        self.next_step = -1 if self.quiet else self._after(step + 1)
        return self._play((STEP, step), choice)

    def _play(self, place: Place, choice: int) -> int:
        if choice:
            self.played[place] = choice
        return choice

    def _after(self, step: int) -> int:
        if self._told:
            while self._steps and self._steps[-1] < step:
                self._steps.pop()
            return self._steps[-1] if self._steps else -1
        rate = self.rates.get(STEP, 0.0)
        return step + int(self._chance.expovariate(rate)) if rate > 0 else -1
