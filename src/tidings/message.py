"""Events, commands and queries: what services say to each other.

An `Event` is a fact, immutable. A `Command[T]` or `Query[T]` is asked of exactly one handler and answered with a `T`.
All three are msgspec Structs behind one metaclass, which takes the wire contract as class keywords:

    class OrderCreated(Event, name="order.created", version="1.0", key="order_id"):
        order_id: str
        total: Decimal

The name on the wire is always written out. The topic is the noun (`order`), so that one key keeps its order over all
that happens to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, dataclass_transform

import msgspec

from tidings.errors import EventDefinitionError

T_co = TypeVar("T_co", covariant=True)

NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")
TOPIC = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)(\.(0|[1-9]\d*))?")


class Contract(msgspec.Struct, frozen=True):
    """What the wire knows of a message class: its name, version, key field and topic."""

    name: str
    version: str
    key: str | None
    topic: str


@dataclass_transform(frozen_default=True, kw_only_default=True)
class MessageMeta(msgspec.StructMeta):
    """Makes message classes: frozen, keyword-only Structs that carry their `Contract`."""

    def __new__(  # noqa: D102, PLR0913 - the class keywords are the public way to write a contract
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        name: str | None = None,
        version: str = "1.0",
        key: str | None = None,
        topic: str | None = None,
        abstract: bool = False,
        **struct_options: Any,
    ) -> Any:
        struct_options.setdefault("frozen", True)
        struct_options.setdefault("kw_only", True)
        cls: Any = super().__new__(mcls, class_name, bases, namespace, **struct_options)
        if not abstract:
            cls.__contract__ = _contract(cls, name, version, key, topic)
        return cls


def _contract(cls: Any, name: str | None, version: str, key: str | None, topic: str | None) -> Contract:
    where = f"{cls.__module__}.{cls.__qualname__}"
    if name is None:
        raise EventDefinitionError(
            f'{where} has no name. Write class {cls.__name__}(..., name="noun.verb"), or abstract=True for a base.'
        )
    if not NAME.fullmatch(name):
        raise EventDefinitionError(f'{where}: the name {name!r} is not of the form "noun.verb" (a-z, 0-9, _ and -).')
    if not VERSION.fullmatch(version):
        raise EventDefinitionError(f'{where}: the version {version!r} is not semantic, such as "1.0".')
    if key is not None and key not in cls.__struct_fields__:
        fields = ", ".join(cls.__struct_fields__) or "none"
        raise EventDefinitionError(f"{where}: the key {key!r} is not one of its fields ({fields}).")
    if topic is not None and not TOPIC.fullmatch(topic):
        raise EventDefinitionError(f"{where}: the topic {topic!r} has other characters than a-z, 0-9, _, - and dots.")
    return Contract(name, version, key, topic or name.rpartition(".")[0])


if TYPE_CHECKING:
    _Struct = object  # a Struct base is not frozen in the eyes of a type checker; the metaclass says what ours are
else:
    _Struct = msgspec.Struct


class Message(_Struct, metaclass=MessageMeta, abstract=True):
    """What events, commands and queries have in common. Not for direct use."""

    __contract__: ClassVar[Contract]


class Event(Message, abstract=True):
    """A fact: something happened. Immutable; any number of handlers may hear it.

    Class keywords: `name` ("noun.verb", required), `version` (semantic, "1.0"), `key` (the field that is the unit of
    order), `topic` (the noun by default), `abstract=True` for a base class with common fields.
    Raises EventDefinitionError where the contract cannot be.
    """


class Command(Message, Generic[T_co], abstract=True):
    """A request to do something, asked of exactly one handler and answered with a T. Durable; may write."""


class Query(Message, Generic[T_co], abstract=True):
    """A question, asked of exactly one handler and answered with a T. Reads only; is not kept."""


def contract_of(cls: type[Message]) -> Contract:
    """The contract of a message class. Raises EventDefinitionError for an abstract one."""
    contract: Contract | None = cls.__dict__.get("__contract__")
    if contract is None:
        raise EventDefinitionError(f"{cls.__module__}.{cls.__qualname__} is abstract and has no name on the wire.")
    return contract
