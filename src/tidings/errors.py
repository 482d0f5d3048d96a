"""Every error that tidings raises, and the tree they form.

    TidingsError
    |-- DefinitionError           a program that cannot be right: refused when it is declared or started
    |   |-- EventDefinitionError  an event, command or query class
    |   |-- HandlerDefinitionError  a handler, its parameters or what it returns
    |   `-- ConfigError           tidings.toml, an environment variable or a flag
    |-- InvalidEvent              what was published is not an event, or its fields do not fit
    |   `-- BodyTooLarge          the encoded event is over the limit
    |-- DecodeError               bytes that are not what their type says
    |   `-- UnknownType           a record of a type that nobody here knows
    |-- HandlerError              the handling of one event failed
    |   |-- HandlerTimeout        it took longer than its time limit
    |   |-- ItemsFailed           raised by a batch handler: these items failed, the others are done
    |   |-- TransactionEnded      a handler committed or rolled back the transaction that is not its own
    |   `-- AttemptsExhausted     the event was lent too often: its handler killed or lost the worker
    |-- StoreError
    |   |-- NoStore               what was asked for needs a store, and there is none beside the broker
    |   |-- Conflict              rows that the transaction read were changed by another before it committed
    |   |-- NotInTransaction      a Tx was used after its handler ended
    |   `-- Redo                  a step has to run again, in a way that can undo one handler alone
    `-- BrokerError
        |-- PublishFailed         a publish whose records may not be kept; `unsent` names them
        |-- Closed                the broker or subscription is closed
        |-- Fenced                a lease was lost; what was done under it is not kept
        |-- Unreachable           the server is not there just now; whoever calls again finds it when it is
        `-- StorageError          the database file
            |-- StorageBusy       another writer held the file for longer than the wait
            |-- CommitRefused     what a handler wrote breaks a constraint that is checked at the commit
            |-- StorageFull       no space; goes on by itself when there is space again
            |-- StorageReadOnly   the file or its folder cannot be written
            |-- StorageBroken     corrupt, or an fsync failed: nothing more is written
            |   `-- Moved         the events are with another broker now, which the message names
            |-- StorageForeign    the file is not a tidings database
            |-- StorageTooNew     the file was written by a newer tidings
            `-- StorageUnsafe     a place where the file cannot be kept safely (a network file system)

Every message names the thing and, where there is one, the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class TidingsError(Exception):
    """The root of every error of this package."""


class DefinitionError(TidingsError):
    """A program that cannot be right; raised when it is declared or started, never while events flow."""


class EventDefinitionError(DefinitionError):
    """An event, command or query class that cannot be: no name, a key that is no field, a bad version."""


class HandlerDefinitionError(DefinitionError):
    """A handler that cannot be called: an unresolved annotation, a parameter nobody provides, a wrong return type."""


class ConfigError(DefinitionError):
    """A setting that is unknown or does not fit; the message names where it was written."""


class InvalidEvent(TidingsError):
    """What was published is not an event, or a field does not fit its type; the message names the field."""


class BodyTooLarge(InvalidEvent):
    """The encoded event is over the configured limit of bytes."""


class DecodeError(TidingsError):
    """A record's bytes are not what its type says. The record goes to dead letters, never into a retry loop."""


class UnknownType(DecodeError):
    """A record without a type, or of a type that does not belong on its topic."""


class HandlerError(TidingsError):
    """The handling of one event failed for a reason that tidings found."""


class HandlerTimeout(HandlerError):
    """The handler took longer than its time limit and was cancelled."""


class TransactionEnded(HandlerError):
    """A handler ended the transaction that belongs to the worker (commit, rollback or a script)."""


class AttemptsExhausted(HandlerError):
    """The event was lent more often than its policy allows, because its handler killed or lost the worker."""


class ItemsFailed(HandlerError):
    """Raised by a batch handler: the events named in `errors` failed; all others of the batch are done.

    Keys are the very event objects that the handler was given.
    """

    def __init__(self, errors: Mapping[Any, BaseException] | Sequence[tuple[Any, BaseException]]) -> None:
        pairs = list(errors.items()) if isinstance(errors, Mapping) else list(errors)
        super().__init__(
            f"{len(pairs)} items of the batch failed, the first with: {pairs[0][1]!r}" if pairs else "no item failed"
        )
        self.errors: list[tuple[Any, BaseException]] = pairs


class StoreError(TidingsError):
    """The state store."""


class NoStore(StoreError):
    """What was asked for needs a store, and none is named beside the broker."""


class Conflict(StoreError):
    """Rows that the transaction read were changed by another before it committed; run it again."""


class NotInTransaction(StoreError):
    """A Tx was used after its handler ended."""


class Redo(StoreError):
    """A handler failed after it had written, without a savepoint of its own: the step has to run again with them."""


class BrokerError(TidingsError):
    """The broker."""


class PublishFailed(BrokerError):
    """Some records may not be kept. `unsent` holds their ids; publishing them again with the same id is safe."""

    def __init__(self, message: str, unsent: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unsent: tuple[str, ...] = tuple(unsent)


class Closed(BrokerError):
    """The broker or the subscription is not open."""


class Fenced(BrokerError):
    """The lease was lost to another member of the group; nothing done under it is kept."""


class Unreachable(BrokerError):
    """The server is not there, or does not answer, just now. A worker waits for it; see the setting `fail_fast`."""


class StorageError(BrokerError):
    """The database file could not do what was asked; nothing of it is half done."""


class StorageBusy(StorageError):
    """Another writer held the file for longer than the wait. Try again."""


class CommitRefused(StorageError):
    """A constraint that is checked only at the commit does not hold: nothing was kept, and nothing is by trying again.

    Where a handler wrote it, that is the failure of its event.
    """


class StorageFull(StorageError):
    """No space is left. Nothing was kept of this; writing goes on by itself when there is space again."""


class StorageReadOnly(StorageError):
    """The file or its folder cannot be written."""


class StorageBroken(StorageError):
    """The file is corrupt, or an fsync failed. Nothing more is written; see `tidings doctor`."""


class Moved(StorageBroken):
    """The events of the file are with another broker now, which the message names. Nothing more is published here."""


class StorageForeign(StorageError):
    """The file is not a tidings database."""


class StorageTooNew(StorageError):
    """The file was written by a newer version of tidings."""


class StorageUnsafe(StorageError):
    """The file lies where locks or fsync cannot be trusted, such as a network file system."""
