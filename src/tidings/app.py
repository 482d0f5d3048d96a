"""One service: what it hears, what it tells, what it keeps.

Declare handlers on an `App`, then run it. What `App.on` collects is checked and bound when the app starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import typing
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator, Iterator, Mapping
from itertools import chain as chain_of
from typing import Any, Self, TypeVar, Unpack

import msgspec

from tidings.broker import Record
from tidings.cell import Cell
from tidings.clock import Clock
from tidings.codec import Codec
from tidings.config import Config, load
from tidings.connect import Connection, connect
from tidings.errors import Closed, Conflict, HandlerDefinitionError, InvalidEvent
from tidings.handler import Bound, Handler, Mode, On, bind, options
from tidings.inquest import Inquest
from tidings.isolation import Home
from tidings.lane import current
from tidings.message import Event, contract_of
from tidings.middleware import Middleware, chain
from tidings.store import Table, Tx
from tidings.worker import Worker, join_all

F = TypeVar("F", bound=Callable[..., Any])
V = TypeVar("V")

MANY = 1000
"""How long a list in a module may be to be looked through for apps."""


class App:
    """One service. `name` begins the name of each of its handlers on the wire: `<app>.<handler>`.

    `broker`, `store` and other settings (see `tidings.config.Config`) given here win over tidings.toml and the
    environment. Without any, all apps started in a folder share its `tidings.db` and so hear each other.
    """

    def __init__(self, name: str, broker: str | None = None, *, clock: Clock | None = None, **settings: Any) -> None:
        if not name or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise HandlerDefinitionError(f"App({name!r}): a name has letters, digits, - and _ only.")
        self.name = name
        self.clock = clock or Clock()
        self.handlers: dict[str, Handler] = {}
        self.workers: list[Worker] = []
        self.connection: Connection | None = None
        self.config: Config | None = None
        self.settings: dict[str, Any] = {"broker": broker, **settings}
        self._middleware: list[Middleware] = []
        self._providers: list[tuple[type, Any]] = []
        self._resources = contextlib.AsyncExitStack()
        self._codec: Codec | None = None
        self.trace: Callable[[], dict[str, str]] | None = None
        self.inquest: Inquest | None = None
        self.published: Counter[str] = Counter()
        """What the program itself has published, by type; what handlers have is in the meters of their workers."""

    # -- declaring

    def on(self, *sources: type[Event] | str, **given: Unpack[On]) -> Callable[[F], F]:
        """Register a function as the handler of these events (or of every record on a topic, given by name).

        One handler is one consumer group, `<app>.<function>`: one position, one lag, one dead letter topic. The first
        parameter is the event; others come by type. What it returns or yields is published with the acknowledgement.
        The options (retry, concurrency, timeout, rate, batch, start, name, isolate) are those of `tidings.handler.On`.
        Raises HandlerDefinitionError.
        """
        if not sources:
            raise HandlerDefinitionError(f"{self.name}: @app.on() needs an event class or the name of a topic.")
        checked = options(given)
        name = given.get("name")

        def register(function: F) -> F:
            own = name or str(getattr(function, "__name__", ""))
            if not own.isidentifier():
                raise HandlerDefinitionError(f"{self.name}: {function!r} needs name=.")
            full = f"{self.name}.{own}"
            if full in self.handlers:
                raise HandlerDefinitionError(f"There are two handlers called {full}; give one of them name=.")
            for source in sources:
                if not isinstance(source, str):
                    contract_of(source)
            self.handlers[full] = Handler(full, function, sources, checked)
            return function

        return register

    def table(self, name: str, type: type[V]) -> Table[V]:
        """Typed rows under text keys, kept in the store; for `Tx.get` and `Tx.put`. Named `<app>.<name>` there."""
        return Table(f"{self.name}.{name}", type)

    def provide(self, value: Any, *, kind: type | None = None) -> None:
        """Give handlers what they ask for by type: an object, or a function that makes it when the app starts.

        A function's return annotation says the type; where it is a generator (async or not), it yields the object
        and what follows the yield runs when the app ends.
        """
        if kind is None:
            kind = _provided_type(value) if inspect.isroutine(value) else type(value)
        self._providers.append((kind, value))

    @contextlib.contextmanager
    def providing(self, instead: Mapping[type, Any]) -> Generator[None]:
        """Meanwhile give these, by type, and make nothing of what is provided for their types: for tests."""
        before = self._providers
        self._providers = [each for each in before if each[0] not in instead] + [*instead.items()]
        try:
            yield
        finally:
            self._providers = before

    def middleware(self, layer: Middleware) -> Middleware:
        """Run `async (delivery, call_next) -> outcome` around every event, the first registered outermost."""
        self._middleware.append(layer)
        return layer

    def copy(self) -> App:
        """The same declarations, not open: as another process has them that imports the same code."""
        again = App(self.name, clock=self.clock, **self.settings)
        again.handlers, again.trace = self.handlers.copy(), self.trace
        again._middleware, again._providers = self._middleware.copy(), self._providers.copy()
        return again

    # -- running

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, connection: Connection | None = None, config: Config | None = None) -> None:
        """Connect, so that the app can publish. A `connection` given is shared, and stays open when the app closes."""
        if self.connection is not None:
            return
        self.config = config or load(**self.settings)
        self._codec = Codec(
            self.name, self.clock, encoding=self.config.encoding, limit=self.config.body_limit, trace=self.trace
        )
        for handler in self.handlers.values():
            for source in handler.sources:
                if not isinstance(source, str):
                    self._codec.register(source)
        opened = connection or connect(self.config, self.clock)
        if connection is None:
            await opened.open()
            self._resources.push_async_callback(opened.close)
        self.connection = opened

    async def close(self) -> None:
        """Close what was opened and provided. Idempotent."""
        self.connection = None
        self.workers = []
        await self._resources.aclose()

    async def start(self) -> list[Worker]:
        """Bind every handler and join its group; returns the workers, to be run. Raises a DefinitionError."""
        await join_all(await self.staff())
        return self.workers

    async def staff(self) -> list[Worker]:
        """Bind every handler; returns the workers, which are in no group yet. Raises a DefinitionError."""
        bounds = await self.bind()
        assert self.connection is not None
        broker, store = self.connection
        self.workers = [
            Worker(bound, broker=broker, store=store, codec=self.codec, clock=self.clock, middleware=self._middleware)
            for bound in bounds
        ]
        for worker in self.workers:
            worker.inquest = self.inquest
            if (isolation := worker.bound.options.isolate) is not None:
                worker.cell = Cell(isolation, self._home_of(worker.bound.name))
        return self.workers

    async def bind(self, names: Collection[str] | None = None) -> list[Bound]:
        """Give the parameters of these handlers, or of all, their sources. Raises a DefinitionError."""
        if self.connection is None:
            raise Closed(f"App {self.name!r} is not open; use `async with app:`")
        provided = {kind: await self._make(kind, value) for kind, value in self._providers}
        wanted = [handler for name, handler in self.handlers.items() if names is None or name in names]
        return [bind(handler, provided, self.connection.store) for handler in wanted]

    def around(self, bound: Bound) -> Callable[[Any, Any, Any], Any]:
        """A handler within the middleware."""
        return chain(self._middleware, bound.call, in_thread=bound.mode is not Mode.LOOP)

    def _home_of(self, name: str) -> Home:
        """Where another process finds the handler. Raises HandlerDefinitionError where it would not."""
        handler = self.handlers[name]
        first = handler.function.__module__
        for module in dict.fromkeys((first, *sys.modules)):
            if any(app.name == self.name and app.handlers.get(name) is handler for app in apps_in(module)):
                modules = tuple(dict.fromkeys((_importable(first), _importable(module))))
                return Home(modules, self.name, name, msgspec.to_builtins(self.config))
        raise HandlerDefinitionError(
            f"{name}: isolate= needs an app that another process can import, and {self.name!r} is in no module. "
            "Make the App, with its handlers, at the top of one."
        )

    async def _make(self, kind: type, value: Any) -> Any:
        if not inspect.isroutine(value):
            return value
        if inspect.isasyncgenfunction(value):
            return await self._resources.enter_async_context(contextlib.asynccontextmanager(value)())
        if inspect.isgeneratorfunction(value):
            return self._resources.enter_context(contextlib.contextmanager(value)())
        made = value()
        return await made if inspect.isawaitable(made) else made

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Self]:
        """Open the app and run its handlers while the block lasts; then drain them within the grace time."""
        async with self:
            workers = await self.start()
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(worker.run(), name=worker.bound.name) for worker in workers]
                    try:
                        yield self
                    finally:
                        assert self.config is not None
                        await asyncio.gather(*(worker.drain(self.config.grace) for worker in workers))
                        for task in tasks:
                            task.cancel()
            except BaseExceptionGroup as errors:
                raise _alone(errors) from None

    def worker(self, handler: str) -> Worker:
        """The running worker of a handler, by its name with or without the app: to pause and resume it."""
        for worker in self.workers:
            if worker.bound.name in (handler, f"{self.name}.{handler}"):
                return worker
        raise HandlerDefinitionError(f"App {self.name!r} runs no handler {handler!r}.")

    # -- telling

    @property
    def codec(self) -> Codec:
        """How this app's messages become records."""
        if self._codec is None:
            raise Closed(f"App {self.name!r} is not open; use `async with app:`")
        return self._codec

    async def publish(self, *events: Event, id: str | None = None, delay: float | None = None) -> None:
        """Tell what happened. On return it is durable, and every handler of it will get it.

        Several events are kept together or not at all. `id` is an idempotency key: a second publish of it to the
        topic changes nothing. `delay` in seconds: nobody gets it before. In a handler, return or yield events instead:
        then they are published with the acknowledgement; what is published here is out at once.
        Raises InvalidEvent (names the field), PublishFailed or a StorageError.
        """
        if self.connection is None:
            raise Closed(f"App {self.name!r} is not open; use `async with app:`")
        if id is not None and len(events) != 1:
            raise InvalidEvent("publish(id=...) names one event; publish the others by themselves.")
        due = None if delay is None else self.clock.now() + delay
        lane = current.get()
        cause = lane.current.record if lane is not None and lane.current is not None else None
        codec = self.codec
        if len(events) == 1:
            records = [codec.encode(events[0], cause, id=id, due=due)]
        else:
            records = [codec.encode(event, cause, due=due) for event in events]
        await self.connection.broker.publish(records)
        for record in records:
            self.published[record.type] += 1

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """Write Tables and publish in one commit, outside a handler; nothing is kept where the block raises.

        Raises Conflict when it ends and a row that it read has been changed meanwhile: run the block again.
        """
        if self.connection is None:
            raise Closed(f"App {self.name!r} is not open; use `async with app:`")
        broker, store = self.connection
        transaction = Transaction(store.begin(), self.codec)
        try:
            yield transaction
            if not store.finish(transaction.tx):
                store.discard(transaction.tx)
                raise _conflict(self.name)
            unit = store.unit()
            unit.join([transaction.tx])
            await broker.publish(transaction.records, tx=unit)
            await unit.commit()
            self.published.update(record.type for record in transaction.records)
        finally:
            store.discard(transaction.tx)


class Transaction:
    """State and messages in one commit; see App.transaction."""

    def __init__(self, tx: Tx, codec: Codec) -> None:
        self.tx = tx
        self.records: list[Record] = []
        self._codec = codec
        self.get = tx.get
        self.put = tx.put
        self.delete = tx.delete

    def publish(self, *events: Event) -> None:
        """Tell these when the transaction commits. Raises InvalidEvent."""
        self.records += [self._codec.encode(event) for event in events]


def apps_in(module: str) -> list[App]:
    """The apps that a loaded module has, or that are in a list there."""
    values = list(vars(sys.modules[module]).values()) if module in sys.modules else []
    lists = [value for value in values if isinstance(value, list | tuple) and len(value) < MANY]
    return [app for app in chain_of(values, *lists) if isinstance(app, App)]


def _importable(module: str) -> str:
    """What another process imports to have this module: its name, or the path of the script that was started."""
    main = sys.modules["__main__"]
    if module != "__main__":
        return module
    return main.__spec__.name if main.__spec__ is not None else str(main.__file__)


def _alone(error: BaseException) -> BaseException:
    """What a group holds, where that is one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _conflict(name: str) -> Conflict:
    return Conflict(f"{name}: a row that the transaction read has been changed meanwhile; run it again")


def _provided_type(function: Any) -> type:
    hint = typing.get_type_hints(function).get("return")
    if typing.get_origin(hint) in (AsyncIterator, AsyncGenerator, Iterator, typing.get_origin(Iterator[int])):
        hint = typing.get_args(hint)[0]
    if not isinstance(hint, type):
        raise HandlerDefinitionError(
            f"app.provide({function.__name__}): annotate what it returns or yields with a class, or pass kind=."
        )
    return hint
