"""A process that may open too few files is told so, and keeps none of those that it has opened."""

import contextlib
import itertools
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database
from tidings.errors import StorageError

ENOUGH = 16


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def at_most(spare: int) -> Iterator[None]:
    """So many files more than are open now."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, open_files()))
    free = (number for number in itertools.count() if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, spare, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_too_few_descriptors_are_told_and_those_that_were_opened_are_given_back(tmp_path: Path) -> None:
    refused = 0
    for spare in range(ENOUGH):
        before = open_files()
        broker = SqliteBroker(Database(tmp_path / "tidings.db", durable=False), Clock())
        try:
            with at_most(spare):
                await broker.open()
        except StorageError as error:
            refused += "ulimit -n" in str(error)
        else:
            await broker.close()
        assert open_files() == before, spare
    assert 3 < refused < ENOUGH
