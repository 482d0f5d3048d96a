"""What is open for a part of a test: a broker, a link, a store."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar


class Opens(Protocol):
    async def open(self) -> None: ...
    async def close(self) -> None: ...


T = TypeVar("T", bound=Opens)


@contextlib.asynccontextmanager
async def kept_open(thing: T) -> AsyncGenerator[T]:
    """It is closed whatever happens."""
    await thing.open()
    try:
        yield thing
    finally:
        await thing.close()
