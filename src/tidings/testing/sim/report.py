"""What a failing run says: what does not hold, the least that leads to it, and a token that plays it again."""

from __future__ import annotations

import base64
import binascii
import zlib

import msgspec

from tidings.errors import ConfigError
from tidings.testing.sim.tape import Choices
from tidings.testing.sim.trial import Outcome

VERSION = 1
"""Of tokens: a change of what is asked in which order makes old ones worthless."""


class Replay(msgspec.Struct, frozen=True, array_like=True):
    """What a token holds."""

    version: int
    seed: int
    rates: dict[str, float]
    choices: list[tuple[str, int, int]]

    @property
    def played(self) -> Choices:
        """The choices as a tape takes them."""
        return {(label, at): choice for label, at, choice in self.choices}


def token(outcome: Outcome) -> str:
    """A run as text: for `--replay`."""
    choices = [(label, at, choice) for (label, at), choice in sorted(outcome.choices.items())]
    packed = msgspec.msgpack.encode(Replay(VERSION, outcome.seed, dict(outcome.rates), choices))
    return base64.urlsafe_b64encode(zlib.compress(packed, 9)).decode().rstrip("=")


def replay(text: str) -> Replay:
    """What a token says. Raises ConfigError for one that is broken or of another version."""
    try:
        packed = zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        (version, *_) = msgspec.msgpack.decode(packed)
        if version == VERSION:
            return msgspec.msgpack.decode(packed, type=Replay)
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise ConfigError(f"{text[:40]!r} is no replay token: copy all of it.") from error
    raise ConfigError(f"The replay token is of version {version}, this tidings plays version {VERSION}: simulate anew.")


def told(outcome: Outcome, *, found: Outcome | None = None) -> str:
    """The report. `found` is the run before it was shrunk."""
    error = outcome.error
    assert error is not None
    lines = [
        f"{type(error).__name__}: {error}",
        "",
        f"seed {outcome.seed}, {len(outcome.choices)} choices that differ from what goes well"
        + (f" ({len(found.choices)} before it was shrunk)" if found is not None else "")
        + ":",
        *(f"  {label} #{at} -> {choice}" for (label, at), choice in sorted(outcome.choices.items())),
        "",
        "what happened (virtual seconds, process):",
        *(f"  {moment.at:9.3f}  {moment.process or '-':7} {moment.what}" for moment in outcome.timeline),
        "",
        "switched on: " + (", ".join(f"{label} {rate:.3g}" for label, rate in outcome.rates.items()) or "nothing"),
        f"play it again: --replay {token(outcome)}",
    ]
    return "\n".join(lines)
