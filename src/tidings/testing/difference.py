"""Expected beside actual: whether a list of events fits what was specified, and in which fields it does not.

A pattern is a sequence of events, of `Some`, which leaves fields open, of `AnyOrder`, and of `...` for any others.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import EllipsisType
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from tidings.message import Event

E = TypeVar("E", bound=Event)

ALIGNED = 1_000_000
"""Pairs of events that are compared at most to find which belongs to which."""
SHOWN = 10
"""Events that are shown in a row of those that are all as expected, missing or unexpected."""


class Some(Generic[E]):
    """An event of this class with these fields; the others may be anything. Raises TypeError for an unknown field."""

    def __init__(self, event: type[E], **fields: Any) -> None:
        unknown = [name for name in fields if name not in event.__struct_fields__]
        if unknown:
            known = ", ".join(event.__struct_fields__)
            raise TypeError(f"{event.__name__} has no field {unknown[0]!r}; it has {known}.")
        self.event = event
        self.fields = fields

    def __repr__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.fields.items()]
        return f"{self.event.__name__}({', '.join([*named, '...'])})"


class AnyOrder:
    """These events, one after the other in any order."""

    def __init__(self, *events: Event | Some[Any]) -> None:
        self.events = events


One: TypeAlias = Event | Some[Any]
Item: TypeAlias = Event | Some[Any] | AnyOrder | EllipsisType


class Absent(enum.Enum):
    """What stands for a key that is not there."""

    ABSENT = "nothing"

    def __repr__(self) -> str:
        return self.value


ABSENT = Absent.ABSENT


class Gap(NamedTuple):
    """Where two values differ: the path to it, `items['x'].count`, and what was there."""

    path: str
    expected: Any
    actual: Any

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}expected {self.expected!r}, was {self.actual!r}"


def gaps(expected: Any, actual: Any, path: str = "") -> Iterator[Gap]:
    """Where two values differ, as deep inside as they have the same shape."""
    if expected == actual:
        return
    if type(expected) is not type(actual):
        yield Gap(path, expected, actual)
    elif isinstance(expected, msgspec.Struct):
        for name in expected.__struct_fields__:
            yield from gaps(getattr(expected, name), getattr(actual, name), f"{path}.{name}".lstrip("."))
    elif isinstance(expected, Mapping):
        for key in expected | actual:
            yield from gaps(expected.get(key, ABSENT), actual.get(key, ABSENT), f"{path}[{key!r}]")
    elif isinstance(expected, (list, tuple)) and len(expected) == len(actual):
        for number, (left, right) in enumerate(zip(expected, actual, strict=True)):
            yield from gaps(left, right, f"{path}[{number}]")
    else:
        yield Gap(path, expected, actual)


def _event_gaps(expected: One, actual: Any) -> list[Gap]:
    if isinstance(expected, Some):
        return [gap for name, value in expected.fields.items() for gap in gaps(value, getattr(actual, name), name)]
    return [*gaps(expected, actual)]


def _class(expected: One) -> type:
    return expected.event if isinstance(expected, Some) else type(expected)


def same(expected: One, actual: Any) -> bool:
    """Whether this event is what was expected."""
    return type(actual) is _class(expected) and not _event_gaps(expected, actual)


def fits(pattern: Sequence[Item], actual: Sequence[Any]) -> bool:
    """Whether the events are what the pattern says, in order and without any others."""
    at = 0
    for number, item in enumerate(pattern):
        if isinstance(item, EllipsisType):
            rest = pattern[number + 1 :]
            return any(fits(rest, actual[start:]) for start in range(at, len(actual) + 1))
        wanted = item.events if isinstance(item, AnyOrder) else (item,)
        if not _pairs(wanted, actual[at : at + len(wanted)]):
            return False
        at += len(wanted)
    return at == len(actual)


def _pairs(wanted: Sequence[One], actual: Sequence[Any]) -> bool:
    """Whether each can be given one of its own, in any order: a perfect matching, by augmenting paths."""
    taken: dict[int, int] = {}

    def give(which: int, seen: set[int]) -> bool:
        for place, event in enumerate(actual):
            if place not in seen and same(wanted[which], event):
                seen.add(place)
                if place not in taken or give(taken[place], seen):
                    taken[place] = which
                    return True
        return False

    return len(wanted) == len(actual) and all(give(which, set()) for which in range(len(wanted)))


def explain(pattern: Sequence[Item], actual: Sequence[Any]) -> list[str]:
    """What is as expected, what differs and in which fields, what is missing and what came besides; a line for each."""
    others = "and" if any(isinstance(item, EllipsisType) for item in pattern) else "unexpected"
    told = [_told(left, right, others) for left, right in _aligned([*_in_line(pattern, actual)], actual)]
    lines: list[str] = []
    for label, group in groupby(told, key=lambda each: each[0]):
        texts = [f"{label:12}{text}" for _, text in group]
        lines += texts[:SHOWN]
        if len(texts) > SHOWN:
            lines.append(f"{label:12}and {len(texts) - SHOWN} more")
    return lines


def _told(left: One | None, right: Any, others: str) -> tuple[str, str]:
    if left is None:
        return others, repr(right)
    if right is None:
        return "missing", repr(left)
    if same(left, right):
        return "as expected", repr(right)
    return "differs", "".join([repr(right), *(f"\n{'':14}{gap}" for gap in _event_gaps(left, right))])


def _in_line(pattern: Sequence[Item], actual: Sequence[Any]) -> Iterator[One]:
    """The events of a pattern, those that may come in any order in that in which they came."""
    for item in pattern:
        if isinstance(item, AnyOrder):
            places = {id(one): _place(one, actual) for one in item.events}
            yield from sorted(item.events, key=lambda one: places[id(one)])
        elif not isinstance(item, EllipsisType):
            yield item


def _place(one: One, actual: Sequence[Any]) -> int:
    return next((place for place, event in enumerate(actual) if same(one, event)), len(actual))


Pair: TypeAlias = tuple[One | None, Any]


def _aligned(expected: Sequence[One], actual: Sequence[Any]) -> Iterator[Pair]:
    """Which belongs to which: the longest sequence of the same ones in both, and between them those of one class."""
    start = 0
    while start < min(len(expected), len(actual)) and same(expected[start], actual[start]):
        yield expected[start], actual[start]
        start += 1
    expected, actual = expected[start:], actual[start:]
    left = right = 0
    for row, column in _longest(expected, actual):
        yield from _between(expected[left:row], actual[right:column])
        yield expected[row], actual[column]
        left, right = row + 1, column + 1
    yield from _between(expected[left:], actual[right:])


def _longest(expected: Sequence[One], actual: Sequence[Any]) -> list[tuple[int, int]]:
    rows, columns = len(expected), len(actual)
    if rows * columns > ALIGNED:
        return []
    length = [[0] * (columns + 1) for _ in range(rows + 1)]
    equal = [[same(one, event) for event in actual] for one in expected]
    for row in reversed(range(rows)):
        for column in reversed(range(columns)):
            longer = max(length[row + 1][column], length[row][column + 1])
            length[row][column] = length[row + 1][column + 1] + 1 if equal[row][column] else longer
    found, row, column = [], 0, 0
    while row < rows and column < columns:
        if equal[row][column]:
            found.append((row, column))
            row, column = row + 1, column + 1
        elif length[row + 1][column] >= length[row][column + 1]:
            row += 1
        else:
            column += 1
    return found


def _between(expected: Sequence[One], actual: Sequence[Any]) -> Iterator[Pair]:
    left = [*expected]
    for event in actual:
        partner = next((one for one in left if _class(one) is type(event)), None)
        if partner is not None:
            left.remove(partner)
        yield partner, event
    yield from ((one, None) for one in left)
