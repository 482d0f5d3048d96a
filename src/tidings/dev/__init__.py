"""Real servers on this machine, for tests, measures and development: each ends with the process that started it."""

from tidings.dev.nats import Nats
from tidings.dev.postgres import Postgres
from tidings.dev.server import Server

__all__ = ["Nats", "Postgres", "Server"]
