"""Wrong programs are refused when they are declared or started, with a sentence that says what to change."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import url
from tidings import (
    App,
    BodyTooLarge,
    Closed,
    Command,
    ConfigError,
    Event,
    EventDefinitionError,
    HandlerDefinitionError,
    InvalidEvent,
    Query,
    Retry,
    Tx,
)
from tidings.config import load
from tidings.message import contract_of


class Placed(Event, name="order.placed", version="2.1", key="order"):
    order: str
    number: int = 0


class Low(Event, name="stock.low"):
    sku: str


def test_the_contract_is_what_was_written() -> None:
    contract = contract_of(Placed)
    assert (contract.name, contract.version, contract.key, contract.topic) == ("order.placed", "2.1", "order", "order")

    class Moved(Event, name="order.line.moved", topic="lines"):
        pass

    assert contract_of(Moved).topic == "lines"

    class Charge(Command[str], name="payment.charge"):
        amount: int

    class Status(Query[int], name="order.status"):
        order: str

    assert [contract_of(cls).topic for cls in (Charge, Status)] == ["payment", "order"]


def test_events_are_frozen_and_compare_by_value() -> None:
    event = Placed(order="o")
    with pytest.raises(AttributeError):
        event.order = "p"  # type: ignore[misc]
    assert event == Placed(order="o", number=0)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({}, "has no name"),
        ({"name": "placed"}, 'not of the form "noun.verb"'),
        ({"name": "Order.Placed"}, 'not of the form "noun.verb"'),
        ({"name": "order.placed", "key": "id"}, "the key 'id' is not one of its fields (order)"),
        ({"name": "order.placed", "version": "two"}, "is not semantic"),
        ({"name": "order.placed", "topic": "a b"}, "has other characters"),
    ],
)
def test_an_event_class_that_cannot_be(keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(EventDefinitionError) as refused:
        type(Event)("Bad", (Event,), {"__annotations__": {"order": str}, "__module__": __name__}, **keywords)
    assert says in str(refused.value)
    assert "Bad" in str(refused.value)


def test_an_abstract_base_has_no_name() -> None:
    class Stamped(Event, abstract=True):
        at: float

    class Born(Stamped, name="thing.born"):
        pass

    assert Born(at=1.0).at == 1.0
    with pytest.raises(EventDefinitionError, match="abstract"):
        contract_of(Stamped)


async def test_two_events_of_one_name_in_an_app(tmp_path: Path) -> None:
    app = App("shop", url(tmp_path))

    class Other(Event, name="order.placed"):
        pass

    @app.on(Placed)
    async def one(event: Placed) -> None: ...

    @app.on(Other)
    async def two(event: Other) -> None: ...

    with pytest.raises(EventDefinitionError, match=r"have the same name 'order\.placed'"):
        await app.open()


async def refused(app: App) -> str:
    with pytest.raises(HandlerDefinitionError) as error:
        async with app.running():
            pass
    return str(error.value)


async def test_what_the_block_raises_comes_out_as_it_is(app: App) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.running():
            _ = 1 / 0


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", url(tmp_path))


async def test_an_annotation_that_cannot_be_resolved(app: App) -> None:
    async def hear(event: Placed, mailer: "Mailer") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    app.on(Placed)(hear)
    said = await refused(app)
    assert "Mailer" in said
    assert "Import the type" in said


async def test_a_parameter_that_nobody_provides(app: App) -> None:
    @app.on(Placed)
    async def hear(event: Placed, path: Path) -> None: ...

    assert "wants path: Path, which nobody provides" in await refused(app)


async def test_a_return_type_that_is_no_event(app: App) -> None:
    @app.on(Placed)
    async def hear(event: Placed) -> str:
        return ""

    assert "which is not an event" in await refused(app)


async def test_a_first_parameter_that_is_something_else(app: App) -> None:
    @app.on(Placed)
    async def hear(event: Low) -> None: ...

    assert "is registered for Placed" in await refused(app)


async def test_no_parameter_at_all(app: App) -> None:
    @app.on(Placed)
    async def hear() -> None: ...

    assert "its first one is the event" in await refused(app)


async def test_a_connection_is_not_for_async_handlers_and_a_tx_not_for_others(app: App, tmp_path: Path) -> None:
    @app.on(Placed)
    async def hear(event: Placed, db: sqlite3.Connection) -> None: ...

    assert "must hold no lock" in await refused(app)
    other = App("other", url(tmp_path))

    @other.on(Placed)
    def keep(event: Placed, tx: Tx) -> None: ...

    assert "Tx is for async def handlers" in await refused(other)


def test_handlers_of_one_name_and_options_out_of_range(app: App) -> None:
    @app.on(Placed)
    async def hear(event: Placed) -> None: ...

    with pytest.raises(HandlerDefinitionError, match=r"two handlers called shop\.hear"):
        app.on(Placed)(hear)
    with pytest.raises(HandlerDefinitionError, match="needs an event class"):
        app.on()
    for options in ({"concurrency": 0}, {"timeout": -1.0}, {"rate": 0.0}, {"batch": 0}):
        with pytest.raises(HandlerDefinitionError, match="has to be more than 0"):
            app.on(Placed, **options)  # type: ignore[arg-type]
    with pytest.raises(HandlerDefinitionError, match="retry="):
        app.on(Placed, retry={"ValueError": Retry()})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["", "shop floor", "shop.floor", "größe"])
def test_an_app_name_is_part_of_names_on_the_wire(name: str) -> None:
    with pytest.raises(HandlerDefinitionError, match="a name has letters"):
        App(name)


async def test_what_cannot_be_published_names_the_field(app: App) -> None:
    with pytest.raises(Closed):
        await app.publish(Placed(order="o"))
    async with app:
        with pytest.raises(InvalidEvent, match=r"order\.placed cannot be published: field number: Expected `int`"):
            await app.publish(Placed(order="o", number="seven"))  # type: ignore[arg-type]
        with pytest.raises(InvalidEvent, match="is not an Event"):
            await app.publish("order.placed")  # type: ignore[arg-type]
        with pytest.raises(InvalidEvent, match="cannot be published"):
            await app.publish(Placed(order="\ud800"))
        with pytest.raises(InvalidEvent, match="names one event"):
            await app.publish(Placed(order="a"), Placed(order="b"), id="x")
        with pytest.raises(BodyTooLarge, match="over the limit of 1048576"):
            await app.publish(Placed(order="x" * (1 << 20)))
        await app.publish(Placed(order="x" * ((1 << 20) - len(b'{"order":"","number":0}'))))


async def test_a_handler_that_publishes_what_it_did_not_declare(app: App) -> None:
    from tests.test_worker import dead_letters, settled

    @app.on(Placed, retry=Retry.NEVER)
    def hear(event: Placed) -> Iterator[Low]:
        yield Placed(order="p")  # type: ignore[misc]

    async with app.running():
        await app.publish(Placed(order="o"))
        await settled(app)
        (letter,) = await dead_letters(app, "hear")
    assert "does not name" in letter.headers["deadcause"]


def test_unknown_settings_are_errors_that_name_where(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text('brokr = "sqlite:x.db"\n')
    with pytest.raises(ConfigError, match=r"tidings\.toml: unknown setting 'brokr'; did you mean 'broker'"):
        load(tmp_path, {})
    with pytest.raises(ConfigError, match="TIDINGS_LEESE"):
        load(tmp_path / "nowhere", {"TIDINGS_LEESE": "3"})
    with pytest.raises(ConfigError, match="the program: unknown setting 'x'"):
        load(tmp_path / "nowhere", {}, x=1)


@pytest.mark.parametrize("text", ["lease = 0", "stall = -1", "body_limit = 'big'", "encoding = 'xml'", "grace = "])
def test_settings_that_do_not_fit(tmp_path: Path, text: str) -> None:
    (tmp_path / "tidings.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"tidings\.toml"):
        load(tmp_path, {})


def test_the_program_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text("lease = 1.0\ngrace = 1.0\nstall = 1.0\n")
    config = load(tmp_path, {"TIDINGS_LEASE": "2", "TIDINGS_GRACE": "2"}, lease=3.0, broker=None)
    assert (config.lease, config.grace, config.stall, config.broker) == (3.0, 2.0, 1.0, "sqlite:tidings.db")


@pytest.mark.parametrize(
    ("broker", "says"),
    [
        ("mysql://host", "unknown scheme 'mysql'"),
        ("sqlite:", "names no file"),
        ("sqlite:x.db?leese=3", "unknown option 'leese'"),
        ("sqlite:x.db?lease=long", "does not fit"),
    ],
)
async def test_a_broker_that_cannot_be(broker: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        await App("shop", broker).open()
    assert says in str(error.value)


async def test_a_store_beside_the_embedded_broker(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave `store` out"):
        await App("shop", url(tmp_path), store="sqlite:other.db").open()
