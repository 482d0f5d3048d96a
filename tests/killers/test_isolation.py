"""Before it is buried, what killed its workers is tried alone in a process: what it may take, and what comes of it."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.killers import ward
from tests.killers.ward import Sent
from tests.running import settled, url
from tidings import App, HandlerDefinitionError, Isolation, Record, Start, dead
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded.group import Group
from tidings.embedded.membership import bury_members

DEATHS = 3


def ward_with(handler: str, folder: Path) -> App:
    """The ward with one handler only, in a file of this test's own."""
    app = ward.app.copy()
    app.settings["broker"] = url(folder)
    app.handlers = {f"ward.{handler}": ward.app.handlers[f"ward.{handler}"]}
    return app


async def kill_worker(app: App, handler: str) -> None:
    """As other processes see it: a member has been lent the event, and is dead."""
    assert app.connection is not None
    broker = app.connection.broker
    assert isinstance(broker, SqliteBroker)
    member = await broker.subscribe(["ward"], f"ward.{handler}", Start.EARLIEST)
    assert isinstance(member, Group)
    assert await member.fetch(10, 5.0)
    await broker.run(lambda connection: bury_members(connection, [member.member], broker.lent))
    broker.forget(member)


async def records(app: App, topic: str) -> list[Record]:
    assert app.connection is not None
    view = await app.connection.broker.subscribe([topic], None, Start.EARLIEST)
    found = [delivery.record for delivery in await view.fetch(10, 0.0)]
    await view.close()
    return found


async def outcome(folder: Path, handler: str, how: str = "") -> tuple[list[Record], list[Record], App]:
    """What was published and buried when the event has killed as many workers as it may."""
    app = ward_with(handler, folder)
    async with app:
        await app.publish(Sent(key="a", how=how))
        for _ in range(DEATHS):
            await kill_worker(app, handler)
    async with app.running():
        await settled(app, 30.0)
        said = [record for record in await records(app, "ward") if record.type == "ward.healed"]
        return said, await records(app, dead.topic_of(f"ward.{handler}")), app


@pytest.mark.parametrize("handler", ["plain", "in_thread", "several", "with_tx"])
async def test_what_ends_well_alone_is_settled_as_usual(tmp_path: Path, handler: str) -> None:
    (healed,), letters, _ = await outcome(tmp_path, handler)
    assert not letters
    assert healed.key == "a"
    assert str(os.getpid()) not in healed.value.decode(), "it was not handled in the worker"
    assert healed.headers["causationid"]


async def test_rows_are_read_and_written_in_the_workers_transaction(tmp_path: Path) -> None:
    app = ward_with("with_tx", tmp_path)
    async with app, app.transaction() as transaction:
        transaction.put(ward.stays, "all", ["before"])
        transaction.put(ward.stays, "gone", ["x"])
    (healed,), _, _ = await outcome(tmp_path, "with_tx")
    assert b'"rows":1' in healed.value
    async with app, app.transaction() as transaction:
        assert await transaction.get(ward.stays, "all") == ["before", "a"]
        assert await transaction.get(ward.stays, "gone") is None


@pytest.mark.parametrize(
    ("handler", "how", "cause"),
    [
        ("plain", "exit", "ended with exit code 9"),
        ("with_tx", "kill", "ended with signal SIGKILL"),
        ("in_thread", "stack", "ended with signal SIGSEGV"),
        ("plain", "memory", "needed more memory than its 64 MiB"),
        ("several", "raise", "raised ValueError: a planned failure (alone.py:"),
        ("with_tx", "system exit", "raised SystemExit: 4"),
        ("short", "hang", "took longer than its 0.5 s and was killed"),
        ("short", "block", "took longer than its 0.5 s and was killed"),
    ],
)
async def test_what_fails_alone_is_buried_with_what_became_of_the_process(
    tmp_path: Path, handler: str, how: str, cause: str
) -> None:
    said, (letter,), app = await outcome(tmp_path, handler, how)
    assert not said, "nothing of a try that failed is kept"
    assert letter.headers["deaderror"] == "AttemptsExhausted"
    assert letter.headers["deadattempts"] == str(DEATHS + 1)
    assert letter.headers["deadcause"].startswith(
        f"its worker died in the last of {DEATHS} attempts; alone in a process it"
    )
    assert cause in letter.headers["deadcause"]
    async with app, app.transaction() as transaction:
        assert await transaction.get(ward.stays, "all") is None


async def test_what_a_handler_publishes_itself_is_out_at_once(tmp_path: Path) -> None:
    (told,), letters, _ = await outcome(tmp_path, "telling")
    assert not letters
    assert str(os.getpid()) not in told.value.decode()


async def test_what_was_too_large_for_its_worker_is_tried_alone_too(tmp_path: Path) -> None:
    app = ward_with("hungry", tmp_path)
    async with app.running():
        await app.publish(Sent(key="a"))
        await settled(app, 30.0)
        (healed,) = [record for record in await records(app, "ward") if record.type == "ward.healed"]
    assert str(os.getpid()) not in healed.value.decode()


# -- what cannot be


@pytest.mark.parametrize(
    ("isolate", "sentence"),
    [
        (True, "isolate=True is no Isolation; write isolate=Isolation"),
        (Isolation(memory=512), "memory is in bytes, 1048576 at least; 256 << 20 is 256 MiB"),
        (Isolation(memory="1 GB"), "memory is in bytes"),  # type: ignore[arg-type]
        (Isolation(seconds=0), "seconds have to be more than 0"),
        (Isolation(seconds=float("inf")), "and finite"),
    ],
)
def test_an_isolation_that_cannot_be_is_refused(isolate: Any, sentence: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=sentence.replace("(", r"\(")):
        App("shop").on(Sent, isolate=isolate)


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(HandlerDefinitionError, match=r"has no option 'isolated'; did you mean 'isolate'\?"):
        App("shop").on(Sent, isolated=Isolation())  # type: ignore[call-arg]


async def test_a_handler_with_a_connection_cannot_be_isolated() -> None:
    app = App("shop", "memory:")

    @app.on(Sent, isolate=Isolation())
    def handle(sent: Sent, db: sqlite3.Connection) -> None: ...

    async with app:
        with pytest.raises(HandlerDefinitionError, match="run inside the transaction of their worker"):
            await app.start()


async def test_an_app_that_no_other_process_can_import_is_refused() -> None:
    app = App("shop", "memory:")

    @app.on(Sent, isolate=Isolation())
    async def handle(sent: Sent) -> None: ...

    async with app:
        with pytest.raises(HandlerDefinitionError, match="needs an app that another process can import"):
            await app.start()
