"""The loop of the simulation: the order of the standard one, virtual time, death."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tidings.testing.sim.loop import OWNER, SimLoop, Stuck
from tidings.testing.sim.tape import STEP, Tape

Program = Callable[[list[str]], Coroutine[Any, Any, None]]


async def queues(said: list[str]) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(2)

    async def produce(name: str) -> None:
        for number in range(4):
            await queue.put(number)
            said.append(f"{name} put {number}")

    async def consume(name: str) -> None:
        for _ in range(4):
            number = await queue.get()
            said.append(f"{name} got {number}")

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(produce(name))
            group.create_task(consume(name.upper()))


async def timers(said: list[str]) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    for milliseconds in (30, 10, 20):
        loop.call_at(now + milliseconds / 1000, said.append, f"after {milliseconds}")
    loop.call_soon(said.append, "soon")
    await asyncio.sleep(0)
    said.append("yielded")
    await asyncio.sleep(0.05)


async def locks(said: list[str]) -> None:
    lock, ready = asyncio.Lock(), asyncio.Event()

    async def work(name: str) -> None:
        await ready.wait()
        async with lock:
            said.append(f"{name} in")
            await asyncio.sleep(0)
            said.append(f"{name} out")

    async with asyncio.TaskGroup() as group:
        for name in "xyz":
            group.create_task(work(name))
        await asyncio.sleep(0)
        ready.set()


async def limits(said: list[str]) -> None:
    async def slow() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            said.append("cancelled")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await slow()
    results = await asyncio.gather(asyncio.sleep(0, "one"), asyncio.to_thread(lambda: "two"), return_exceptions=True)
    said.extend(map(str, results))


@pytest.mark.parametrize("program", [queues, timers, locks, limits], ids=lambda program: program.__name__)
def test_without_choices_the_order_is_that_of_asyncio(program: Program) -> None:
    stock: list[str] = []
    asyncio.run(program(stock))
    simulated: list[str] = []
    SimLoop(Tape(0, {})).run_until_complete(program(simulated))
    assert simulated == stock


def test_a_day_takes_no_time() -> None:
    loop = SimLoop(Tape(0, {}))
    loop.run_until_complete(asyncio.sleep(86400))
    assert loop.time() == 86400
    assert loop.steps < 10


def test_choices_change_the_order() -> None:
    orders = set()
    for seed in range(20):
        said: list[str] = []
        SimLoop(Tape(seed, {STEP: 0.5})).run_until_complete(queues(said))
        orders.add(tuple(said))
    assert len(orders) > 10


def test_who_waits_for_nothing_is_stuck() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    loop = SimLoop(Tape(0, {}))
    with pytest.raises(Stuck):
        loop.run_until_complete(wait())
    loop.bury()


def test_a_process_that_was_killed_does_nothing_any_more_and_cleans_nothing_up() -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            for number in range(100):
                said.append(str(number))
                await asyncio.sleep(1)
        finally:
            said.append("cleaned up")

    async def world() -> None:
        context = contextvars.copy_context()
        context.run(OWNER.set, "p1")
        loop.create_task(work(), context=context)
        await asyncio.sleep(2.5)
        loop.kill("p1")
        await asyncio.sleep(100)

    loop = SimLoop(Tape(0, {}))
    loop.run_until_complete(world())
    assert said == ["0", "1", "2"]
    loop.bury()


def test_a_process_that_stands_still_goes_on_where_it_was() -> None:
    said: list[float] = []

    async def work() -> None:
        for _ in range(4):
            await asyncio.sleep(1)
            said.append(loop.time())

    async def world() -> None:
        context = contextvars.copy_context()
        context.run(OWNER.set, "p1")
        loop.create_task(work(), context=context)
        await asyncio.sleep(1.5)
        loop.stop_process("p1")
        await asyncio.sleep(8.5)
        loop.resume_process("p1")
        await asyncio.sleep(10)

    loop = SimLoop(Tape(0, {}))
    loop.run_until_complete(world())
    assert said == [1, 10, 11, 12]
