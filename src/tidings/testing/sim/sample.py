"""Events made up from their types, for apps that nobody has written a scenario for."""

from __future__ import annotations

import datetime
import decimal
import random
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from tidings.errors import ConfigError
from tidings.message import Event
from tidings.testing.sim.simulation import Simulation

E = TypeVar("E", bound=Event)

EVENTS = 6
WORDS = ("a", "b", "c")
"""Few, so that events meet under the same key."""
EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SIMPLE: dict[type, Callable[[random.Random], Any]] = {
    inspect.NoneType: lambda _: None,
    inspect.BoolType: lambda chance: chance.random() < 0.5,
    inspect.BytesType: lambda chance: chance.choice(WORDS).encode(),
    inspect.FloatType: lambda chance: chance.randint(1, 9) / 2,
    inspect.DecimalType: lambda chance: decimal.Decimal(chance.randint(1, 999)) / 100,
    inspect.DateTimeType: lambda chance: EPOCH + datetime.timedelta(minutes=chance.randint(0, 9999)),
    inspect.DateType: lambda chance: EPOCH.date() + datetime.timedelta(days=chance.randint(0, 99)),
    inspect.TimeDeltaType: lambda chance: datetime.timedelta(seconds=chance.randint(1, 99)),
    inspect.UUIDType: lambda chance: uuid.UUID(int=chance.getrandbits(128), version=4),
    inspect.AnyType: lambda chance: chance.choice(WORDS),
}


async def scenario(simulation: Simulation) -> None:
    """Publish some events of every type that handlers hear and none of them publishes."""
    types = [simulation.heard_types[name] for name in sorted(simulation.heard_types.keys() - simulation.told_types)]
    if not types:
        raise ConfigError("The apps hear nothing but what they publish themselves: write a scenario with @simulate.")
    for _ in range(EVENTS):
        await simulation.publish(made_up(simulation.random.choice(types), simulation.random))
        await simulation.sleep(simulation.random.random())


def made_up(cls: type[E], chance: random.Random) -> E:
    """An event with values that fit its fields. Raises ConfigError for a field that nothing can be made up for."""
    try:
        return msgspec.convert(_value(inspect.type_info(cls), chance), cls, from_attributes=True)
    except (msgspec.ValidationError, KeyError) as error:
        raise ConfigError(
            f"{cls.__name__}: no value can be made up ({error}): write a scenario with @simulate."
        ) from error


def _value(kind: Any, chance: random.Random) -> Any:
    if type(kind) in SIMPLE:
        return SIMPLE[type(kind)](chance)
    match kind:
        case inspect.IntType():
            low = kind.ge if kind.ge is not None else (kind.gt + 1 if kind.gt is not None else 1)
            return chance.randint(low, kind.le if kind.le is not None else low + 8)
        case inspect.StrType():
            return chance.choice(WORDS) * (kind.min_length or 1)
        case inspect.LiteralType():
            return chance.choice(kind.values)
        case inspect.EnumType():
            return chance.choice([member.value for member in kind.cls])
        case inspect.UnionType():
            return _value(chance.choice(kind.types), chance)
        case inspect.DictType():
            return {_value(kind.key_type, chance): _value(kind.value_type, chance)}
        case inspect.StructType():
            return {field.encode_name: _value(field.type, chance) for field in kind.fields}
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
            return [_value(kind.item_type, chance)]
        case inspect.TupleType():
            return [_value(item, chance) for item in kind.item_types]
        case inspect.Metadata():
            return _value(kind.type, chance)
        case _:
            raise KeyError(type(kind).__name__)
