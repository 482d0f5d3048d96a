"""Plain clients that write to a server and read all of it back, to see what a fault leaves."""

import uuid
from abc import ABC, abstractmethod

import nats
import psycopg


class Witness(ABC):
    """Writes in one place of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"witness_{uuid.uuid4().hex}"

    @abstractmethod
    async def write(self, body: bytes) -> None:
        """Returns when the server has acknowledged it."""

    @abstractmethod
    async def read(self) -> list[bytes]:
        """All that was written, in order."""


class NatsWitness(Witness):
    async def write(self, body: bytes) -> None:
        client = await nats.connect(self.url)
        try:
            await client.jetstream().add_stream(name=self.name, subjects=[self.name])
            await client.jetstream().publish(self.name, body)
        finally:
            await client.close()

    async def read(self) -> list[bytes]:
        client = await nats.connect(self.url)
        try:
            info = await client.jetstream().stream_info(self.name)
            read = client.jetstream().get_msg
            return [(await read(self.name, seq)).data or b"" for seq in range(1, info.state.messages + 1)]
        finally:
            await client.close()


class PostgresWitness(Witness):
    async def write(self, body: bytes) -> None:
        async with await psycopg.AsyncConnection.connect(self.url) as client:
            await client.execute(f"CREATE TABLE IF NOT EXISTS {self.name} (id bigserial, body bytea)")
            await client.execute(f"INSERT INTO {self.name} (body) VALUES (%s)", [body])

    async def read(self) -> list[bytes]:
        async with await psycopg.AsyncConnection.connect(self.url) as client:
            rows = await client.execute(f"SELECT body FROM {self.name} ORDER BY id")
            return [body for (body,) in await rows.fetchall()]
