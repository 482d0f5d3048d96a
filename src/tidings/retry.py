"""When to try again and when to give up: pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from tidings.errors import AttemptsExhausted, DecodeError, HandlerDefinitionError, InvalidEvent


class Retry(msgspec.Struct, frozen=True):
    """How often an event is tried again before it becomes a dead letter. Durations in seconds.

    At first `at_once` times within some milliseconds, in the key's lane; then `times` times, after `first` seconds and
    each time `factor` times longer, at most `most`; every delay is spread by `jitter` (0.2: 20 % up or down). An event
    whose handler kills the worker counts each death as a try. `times=None` tries for ever.
    """

    times: int | None = 5
    first: float = 1.0
    factor: float = 4.0
    most: float = 600.0
    at_once: int = 2
    jitter: float = 0.2

    NEVER: ClassVar[Retry]

    def delay(self, attempt: int, chance: float) -> float | None:
        """Seconds until the next try after `attempt` tries have failed, or None to give up. `chance` is in [0, 1)."""
        if self.times is not None and attempt > self.times:
            return None
        delay = min(self.first * math.pow(self.factor, min(attempt - 1, 64)), self.most)
        return float(delay * (1 + self.jitter * (2 * chance - 1)))

    def pause(self, again: int, chance: float) -> float | None:
        """Seconds until the next try in the lane after `again` of them, or None when it is time to be delayed."""
        if again >= self.at_once:
            return None
        return 0.01 * math.pow(4, again) * (0.5 + chance)

    def exhausted(self, attempt: int) -> bool:
        """Whether the event was already lent so often that it must not be handled again.

        Where there are retries at all, two deaths are not enough: one of them may be due to an event beside it.
        """
        return self.times is not None and attempt > (max(self.times, 2) if self.times else 0) + 1


Retry.NEVER = Retry(times=0, at_once=0)

Policy = Mapping[type[BaseException], Retry]

HOPELESS: tuple[type[BaseException], ...] = (DecodeError, InvalidEvent, AttemptsExhausted)


def policy(retry: Retry | Policy | None) -> Policy:
    """A policy per exception type; the nearest base class of an exception decides."""
    if retry is None or isinstance(retry, Retry):
        retry = {Exception: retry or Retry()}
    for kind, rule in retry.items():
        if not (_is_error(kind) and isinstance(rule, Retry)):
            raise HandlerDefinitionError(
                f"retry= takes a Retry, or a mapping of exception types to Retry, not {kind!r}: {rule!r}"
            )
    return {Exception: Retry(), **retry}


def rule_for(rules: Policy, error: BaseException) -> Retry:
    """The rule for an error: never for what no try can mend, else that of its nearest base class."""
    for kind in type(error).__mro__:
        if kind in rules and not (kind is Exception and isinstance(error, HOPELESS)):
            return rules[kind]
    return Retry.NEVER if isinstance(error, HOPELESS) else Retry()


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)
