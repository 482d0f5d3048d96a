"""A function as a handler: what it takes, what it wants provided, what it may publish.

Declared by `@app.on`, bound when the app starts: annotations are resolved then, every parameter gets its source, and
a program that cannot be right is refused with a sentence.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import functools
import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import NoneType, UnionType
from typing import Any

import msgspec

from tidings import isolation
from tidings.broker import Delivery, Record, Start
from tidings.errors import HandlerDefinitionError, HandlerError
from tidings.isolation import Isolation
from tidings.message import Event, Message, contract_of
from tidings.retry import Policy, Retry, policy
from tidings.store import Store, Tx

Parameters = tuple[inspect.Parameter, ...]
STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Sequence, list, tuple)
CONCURRENCY = 16
TIMEOUT = 60.0
BATCH = 500


class Mode(enum.Enum):
    """Where a handler runs."""

    LOOP = "on the event loop"
    THREAD = "in a thread"
    TRANSACTION = "in the transaction, off the event loop"


class Options(msgspec.Struct, frozen=True):
    """How a handler is run; see App.on."""

    retry: Policy
    concurrency: int | None
    timeout: float | None
    rate: float | None
    batch: int
    start: Start | float
    isolate: Isolation | None = None


class Handler(msgspec.Struct, frozen=True):
    """A declared handler. `name` is its consumer group: `<app>.<function>`."""

    name: str
    function: Callable[..., Any]
    sources: tuple[Any, ...]
    options: Options


class Bound(msgspec.Struct):
    """A handler that can be called: `call(message, delivery, tx_or_connection)`."""

    name: str
    options: Options
    mode: Mode
    call: Callable[[Any, Delivery, Any], Any]
    topics: tuple[str, ...]
    types: Mapping[str, type]
    may_publish: frozenset[type] | None
    plain: Callable[[Any], Any] | None
    """The function itself, where it takes one decoded event and nothing else, and is no generator."""
    wants_tx: bool
    takes_list: bool
    takes_record: bool

    @property
    def concurrency(self) -> int:
        """How many events it handles at once, each of another key."""
        if self.takes_list or self.mode is Mode.TRANSACTION:
            return 1
        return self.options.concurrency or (CONCURRENCY if self.mode is Mode.LOOP else 1)

    def outputs(self, result: Any) -> Sequence[Message]:
        """What it returned as messages to publish. Raises HandlerError for anything else."""
        if result is None:
            return ()
        if self.may_publish is not None and type(result) in self.may_publish:
            return (result,)
        several = isinstance(result, Iterable) and not isinstance(result, (Message, str, bytes, Mapping))
        messages = list(result) if several else [result]
        for message in messages:
            if not isinstance(message, Event):
                raise HandlerError(f"{self.name} returned {message!r}; a handler returns or yields events, or None.")
            if self.may_publish is not None and type(message) not in self.may_publish:
                raise HandlerError(
                    f"{self.name} published {type(message).__name__}, which its return annotation does not name."
                )
        return typing.cast("Sequence[Message]", messages)


class On(typing.TypedDict, total=False):
    """The options of `@app.on`."""

    retry: Retry | Policy | None
    """When to try again, or a mapping of exception types to that."""
    concurrency: int | None
    """How many events at once, each of another key: 16 for async def, 1 for def."""
    timeout: float | None
    """Seconds for one event; None for no limit."""
    rate: float | None
    """Events a second at most."""
    batch: int
    """How many a `list[...]` handler gets at most."""
    start: Start | float
    """Where a new handler begins: Start.LATEST, Start.EARLIEST or a time in seconds since the epoch."""
    name: str
    """The handler's name, where it is not the function's."""
    isolate: Isolation | None
    """One more try, alone in a process, for an event that would be buried because it killed its workers."""


def options(given: On) -> Options:
    """Check what was written at `@app.on`. Raises HandlerDefinitionError."""
    for name in given.keys() - On.__annotations__.keys():
        near = difflib.get_close_matches(name, On.__annotations__, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(On.__annotations__)}."
        raise HandlerDefinitionError(f"@app.on has no option {name!r}; {hint}")
    checked = Options(
        retry=policy(given.get("retry")),
        concurrency=given.get("concurrency"),
        timeout=given.get("timeout", TIMEOUT),
        rate=given.get("rate"),
        batch=given.get("batch", BATCH),
        start=given.get("start", Start.LATEST),
        isolate=isolation.checked(given.get("isolate")),
    )
    for name in ("concurrency", "timeout", "rate", "batch"):
        value = getattr(checked, name)
        if value is not None and value <= 0:
            raise HandlerDefinitionError(f"{name}={value!r} has to be more than 0.")
    return checked


def bind(handler: Handler, provided: Mapping[type, Any], store: Store) -> Bound:
    """Resolve the handler's annotations and give each parameter its source. Raises HandlerDefinitionError."""
    hints, parameters = _annotations(handler, provided)
    if not parameters:
        raise HandlerDefinitionError(f"{handler.name} takes no parameter; its first one is the event.")
    first, *others = parameters
    classes, takes_list, takes_record = _message(handler, hints.get(first.name, inspect.Parameter.empty))
    asynchronous = inspect.iscoroutinefunction(handler.function) or inspect.isasyncgenfunction(handler.function)
    wired = _Wiring(handler, asynchronous, store, provided)
    for parameter in others:
        wired.parameter(parameter, hints.get(parameter.name))
    if handler.options.isolate is not None and wired.mode is Mode.TRANSACTION:
        raise HandlerDefinitionError(
            f"{handler.name}: isolate= is not for handlers with a database connection: they run inside the transaction "
            "of their worker, which no other process can be given. Make it async def with a Tx, or leave isolate out."
        )
    topics = [source if isinstance(source, str) else contract_of(source).topic for source in handler.sources]
    return Bound(
        name=handler.name, options=handler.options, mode=wired.mode, call=wired.call(),
        topics=tuple(dict.fromkeys(topics)), types={contract_of(cls).name: cls for cls in classes},
        may_publish=_may_publish(handler, hints), wants_tx=wired.tx is not None,
        plain=None if takes_list or takes_record else wired.plain,
        takes_list=takes_list, takes_record=takes_record,
    )  # fmt: skip


def _annotations(handler: Handler, provided: Mapping[type, Any]) -> tuple[Mapping[str, Any], Parameters]:
    """What its annotations mean, and its parameters."""
    known = [cls for cls in (*handler.sources, *provided) if isinstance(cls, type)]
    try:
        return _resolved(handler.function, tuple(known))
    except (NameError, TypeError, AttributeError) as error:
        raise HandlerDefinitionError(
            f"{handler.name}: an annotation cannot be resolved ({error}). Import the type in "
            f"{handler.function.__module__} at run time, not only for type checkers."
        ) from error


@functools.lru_cache(256)
def _resolved(function: Callable[..., Any], known: tuple[type, ...]) -> tuple[Mapping[str, Any], Parameters]:
    """Kept, since a simulator binds the same handlers thousands of times."""
    names = {cls.__name__: cls for cls in known}
    hints = typing.get_type_hints(function, localns=names)
    return hints, tuple(inspect.signature(function).parameters.values())


def _message(handler: Handler, annotation: Any) -> tuple[list[type], bool, bool]:
    """The classes of the first parameter, whether it is a list of them, and whether it is the record itself."""
    declared = [source for source in handler.sources if not isinstance(source, str)]
    if annotation is inspect.Parameter.empty:
        return declared, False, not declared
    takes_list = typing.get_origin(annotation) is list
    if takes_list:
        (annotation,) = typing.get_args(annotation)
    if annotation is Record:
        return declared, takes_list, True
    named = set(typing.get_args(annotation)) if _is_union(annotation) else {annotation}
    if named != set(declared) or len(declared) != len(handler.sources):
        wanted = " | ".join(getattr(source, "__name__", repr(source)) for source in handler.sources)
        raise HandlerDefinitionError(
            f"{handler.name} is registered for {wanted}, but its first parameter is {annotation}. "
            "Annotate it with what it is registered for, a list of it, or Record."
        )
    return declared, takes_list, False


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, UnionType)


def _may_publish(handler: Handler, hints: Mapping[str, Any]) -> frozenset[type] | None:
    """The event classes of the return annotation; None where it says nothing or any Event."""
    if "return" not in hints:
        return None
    found: set[type] = set()
    todo = [hints["return"]]
    while todo:
        annotation = todo.pop()
        origin = typing.get_origin(annotation)
        if _is_union(annotation):
            todo.extend(typing.get_args(annotation))
        elif origin in STREAMS:
            todo.append(typing.get_args(annotation)[0])
        elif isinstance(annotation, type) and issubclass(annotation, Event):
            found.add(annotation)
        elif annotation not in (None, NoneType):
            raise HandlerDefinitionError(
                f"{handler.name} returns {annotation}, which is not an event. What a handler returns or yields is "
                "published: annotate it with event classes, or None."
            )
    return None if Event in found else frozenset(found)


class _Wiring:
    """Collects where each parameter after the first comes from."""

    def __init__(self, handler: Handler, asynchronous: bool, store: Store, provided: Mapping[type, Any]) -> None:
        self.handler = handler
        self.asynchronous = asynchronous
        self.store = store
        self.provided = provided
        self.tx: str | None = None
        self.delivery: str | None = None
        self.resources: dict[str, Callable[[Any], contextlib.AbstractContextManager[Any]]] = {}
        self.constants: dict[str, Any] = {}

    @property
    def mode(self) -> Mode:
        if self.asynchronous:
            return Mode.LOOP
        return Mode.TRANSACTION if self.resources else Mode.THREAD

    @property
    def plain(self) -> Callable[[Any], Any] | None:
        alone = not (self.tx or self.delivery or self.constants or self.resources)
        function = self.handler.function
        stream = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        return function if alone and not stream else None

    def parameter(self, parameter: inspect.Parameter, kind: Any) -> None:
        name = parameter.name
        if kind is Tx:
            self._refuse(not self.asynchronous, f"{name}: Tx is for async def handlers; take Sql instead.")
            self._refuse(
                not self.store.keeps, f"{name}: Tx needs a store beside this broker; name one: --store sqlite:shop.db."
            )
            self.tx = name
        elif kind is Delivery:
            self.delivery = name
        elif kind in self.provided:
            self.constants[name] = self.provided[kind]
        elif isinstance(kind, type) and (resource := self.store.resource(kind)) is not None:
            self._refuse(
                self.asynchronous,
                f"{name}: {kind.__name__} is for def handlers, which run inside the transaction; an async def handler "
                "may wait and must hold no lock. Make it def, or take Tx.",
            )
            self.resources[name] = resource
        elif parameter.default is inspect.Parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            what = getattr(kind, "__name__", kind)
            raise HandlerDefinitionError(
                f"{self.handler.name} wants {name}: {what}, which nobody provides. Add app.provide(...) of that type."
            )

    def _refuse(self, wrong: bool, why: str) -> None:
        if wrong:
            raise HandlerDefinitionError(f"{self.handler.name}: {why}")

    def call(self) -> Callable[[Any, Delivery, Any], Any]:
        """`call(message, delivery, tx_or_connection)`: an awaitable for async handlers, the result for others."""
        function = self.handler.function
        if inspect.isasyncgenfunction(function):
            return lambda message, delivery, tx: _collect(function(message, **self._arguments(delivery, tx)))
        if not self.asynchronous:
            return self._call_in_thread()
        return lambda message, delivery, tx: function(message, **self._arguments(delivery, tx))

    def _call_in_thread(self) -> Callable[[Any, Delivery, Any], Any]:
        function = self.handler.function
        if inspect.isgeneratorfunction(function):
            stream = function

            def function(*given: Any, **named: Any) -> list[Any]:
                return list(stream(*given, **named))

        opened = {name: make for name, make in self.resources.items() if make is not contextlib.nullcontext}
        direct = [name for name in self.resources if name not in opened]
        if opened:
            return lambda message, delivery, connection: self._opening(function, message, delivery, connection)
        if self.delivery or self.constants:
            return lambda message, delivery, connection: function(
                message, **self._arguments(delivery, None), **dict.fromkeys(direct, connection)
            )
        return lambda message, delivery, connection: function(message, **dict.fromkeys(direct, connection))

    def _arguments(self, delivery: Delivery, tx: Any) -> dict[str, Any]:
        arguments = dict(self.constants)
        if self.tx is not None:
            arguments[self.tx] = tx
        if self.delivery is not None:
            arguments[self.delivery] = delivery
        return arguments

    def _opening(self, function: Callable[..., Any], message: Any, delivery: Delivery, connection: Any) -> Any:
        """Call it with resources that are made for each event, such as a session."""
        arguments = self._arguments(delivery, None)
        with contextlib.ExitStack() as stack:
            for name, resource in self.resources.items():
                arguments[name] = stack.enter_context(resource(connection))
            return function(message, **arguments)


async def _collect(stream: AsyncIterator[Any]) -> list[Any]:
    return [message async for message in stream]
