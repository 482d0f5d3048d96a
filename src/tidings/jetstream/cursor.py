"""Where a group stands in one part: a few numbers in a key-value bucket, written as a whole, each time by revision.

Who writes must name the revision that it read or wrote last: the server refuses any other. So the revision is the
fence: a member that was taken for dead and comes back finds that it cannot write, whatever it holds.

Everything up to `read` is done, but what is in `out` (with the member) or `back` (to be lent again, before what comes
after `read`). `out` is written before a record is lent; so when the member dies, all that was with it is known, and
nothing else is counted as an attempt.
"""

from __future__ import annotations

import msgspec


class State(msgspec.Struct, omit_defaults=True):
    """What is written. `tries` holds the attempts above 1 of what is in `out` and `back`; numbers are sequences.

    `made` is when the server made the stream that they belong to: another one of its name begins anew.
    """

    read: int
    made: str = ""
    member: str = ""
    out: list[int] = []
    back: list[int] = []
    tries: dict[int, int] = {}


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(State).decode


def given_back(state: State, *, died: bool) -> State:
    """The state when its member is gone: what was out comes again, as one more attempt where the member died."""
    tries = dict(state.tries)
    if died:
        tries |= {sequence: tries.get(sequence, 1) + 1 for sequence in state.out}
    return State(state.read, state.made, "", [], sorted({*state.back, *state.out}), tries)


class Cursor:
    """The state of a part in the hands of its member, and how much of it is written."""

    def __init__(self, state: State, revision: int) -> None:
        self.revision = revision
        self.read = state.read
        self.made = state.made
        self.member = state.member
        self.out = dict.fromkeys(state.out)
        self.back = dict.fromkeys(state.back)
        self.tries = dict(state.tries)
        self.changes = 0
        self.written = 0

    @property
    def dirty(self) -> bool:
        """Whether something is to be written."""
        return self.written < self.changes

    def lend(self, sequence: int) -> int:
        """This one is with the member from now on; returns its attempt. In order, what is back first."""
        self.changes += 1
        self.out[sequence] = None
        if sequence > self.read:
            self.read = sequence
        else:
            self.back.pop(sequence, None)
        return self.tries.get(sequence, 1) if self.tries else 1

    def take_back(self, sequence: int) -> None:
        """It was not lent after all, or is to be lent again: no attempt."""
        if sequence in self.out:
            self.changes += 1
            del self.out[sequence]
            self.back[sequence] = None

    def give_up(self) -> None:
        """It is nobody's; what is out comes again, and that is no attempt."""
        for sequence in list(self.out):
            self.take_back(sequence)
        self.changes += 1
        self.member = ""

    def settle(self, sequence: int) -> None:
        """It is done, or gone from the stream."""
        self.changes += 1
        self.out.pop(sequence, None)
        self.back.pop(sequence, None)
        self.tries.pop(sequence, None)

    def fit(self, made: str, last: int) -> bool:
        """Whether it fits a stream that was made then and ends there. Where it did not, it is made to fit.

        In another stream everything is new; one that lost its end in a crash of the server goes on before `read`.
        """
        if made == self.made and last >= self.read:
            return True
        known = made == self.made
        self.read, self.made = (last if known else 0), made
        self.out = {sequence: None for sequence in self.out if known and sequence <= last}
        self.back = {sequence: None for sequence in self.back if known and sequence <= last}
        self.changes += 1
        return False

    def state(self) -> State:
        """What is to be written."""
        return State(self.read, self.made, self.member, list(self.out), sorted(self.back), self.tries)
