"""Real servers on this machine, for tests, measures and development: each ends with the process that started it."""

from tidings.dev.kafka import Kafka
from tidings.dev.mock import MockKafka
from tidings.dev.nats import Nats
from tidings.dev.postgres import Postgres
from tidings.dev.rabbitmq import RabbitMQ
from tidings.dev.server import Server
from tidings.dev.valkey import Valkey

__all__ = ["Kafka", "MockKafka", "Nats", "Postgres", "RabbitMQ", "Server", "Valkey"]
