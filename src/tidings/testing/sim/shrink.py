"""Leave out of a failing run whatever it does not need to fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tidings.testing.sim.tape import Choices, Place
from tidings.testing.sim.trial import Outcome

MOST = 400
"""Runs that looking for a smaller one may take."""


def shrunk(found: Outcome, play: Callable[[Mapping[Place, int]], Outcome], *, most: int = MOST) -> Outcome:
    """The run with the fewest choices that was found to fail in the same way.

    First halves, quarters and so on are left out (delta debugging: Zeller, Hildebrandt, "Simplifying and isolating
    failure-inducing input", 2002), then single ones; at last each number is made as small as it can be. What fails
    otherwise than the first did is another failure, and not taken.
    """
    best = found
    left = most

    def fails(choices: Choices) -> bool:
        nonlocal best, left
        if left <= 0:
            return False
        left -= 1
        outcome = play(choices)
        same = outcome.error is not None and type(outcome.error) is type(found.error)
        if same and _weight(outcome.choices) < _weight(best.choices):
            best = outcome
            return True
        return False

    if not fails({}):
        _leave_out(lambda: best.choices, fails)
        _lower(lambda: best.choices, fails)
    return best


def _weight(choices: Choices) -> tuple[int, int]:
    return len(choices), sum(choices.values())


def _leave_out(current: Callable[[], Choices], fails: Callable[[Choices], bool]) -> None:
    size = max(len(current()) // 2, 1)
    while True:
        again = False
        places = sorted(current())
        for first in range(0, len(places), size):
            gone = set(places[first : first + size])
            kept = {place: choice for place, choice in current().items() if place not in gone}
            again |= len(kept) < len(current()) and fails(kept)
        if size == 1 and not again:
            return
        size = max(size // 2, 1)


def _lower(current: Callable[[], Choices], fails: Callable[[Choices], bool]) -> None:
    for place in sorted(current()):
        for lower in range(1, min(current().get(place, 1), 8)):
            if fails({**current(), place: lower}):
                break
