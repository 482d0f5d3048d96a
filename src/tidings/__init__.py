"""Event-driven systems in Python: say what happened, and whoever cares reacts."""

from tidings.app import App, Transaction
from tidings.broker import Delivery, Record, Start
from tidings.errors import (
    BodyTooLarge,
    BrokerError,
    Closed,
    ConfigError,
    Conflict,
    DecodeError,
    DefinitionError,
    EventDefinitionError,
    Fenced,
    HandlerDefinitionError,
    HandlerError,
    HandlerTimeout,
    InvalidEvent,
    ItemsFailed,
    PublishFailed,
    StorageError,
    StorageFull,
    TidingsError,
)
from tidings.isolation import Isolation
from tidings.message import Command, Event, Query
from tidings.retry import Retry
from tidings.store import Sql, Table, Tx

__all__ = [
    "App",
    "BodyTooLarge",
    "BrokerError",
    "Closed",
    "Command",
    "ConfigError",
    "Conflict",
    "DecodeError",
    "DefinitionError",
    "Delivery",
    "Event",
    "EventDefinitionError",
    "Fenced",
    "HandlerDefinitionError",
    "HandlerError",
    "HandlerTimeout",
    "InvalidEvent",
    "Isolation",
    "ItemsFailed",
    "PublishFailed",
    "Query",
    "Record",
    "Retry",
    "Sql",
    "Start",
    "StorageError",
    "StorageFull",
    "Table",
    "TidingsError",
    "Transaction",
    "Tx",
]
