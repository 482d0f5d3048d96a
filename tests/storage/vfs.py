"""A layer between SQLite and its files: what is written, cut, synced and deleted passes a `Disk` first.

It is laid into the SQLite that the standard library's driver is linked to, by ctypes, as that library's default VFS.
So the driver, the library and every statement are those of users, and no second SQLite (as APSW would bring) comes
near the file. Locks, reads and shared memory are the system's own functions, called without passing here.

Only for a process of its own: the layer is for every connection of the process, and connections must be closed, or
the process be left by `os._exit`, before the interpreter ends.
"""

from __future__ import annotations

import _sqlite3
import contextlib
import ctypes
import functools
import os
import sqlite3
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Generator
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple, Protocol

OK = 0
FULL = 13
IOERR_FSYNC = 10 | 4 << 8
IOERR_WRITE = 10 | 3 << 8
CREATE = 0x4


class Disk(Protocol):
    """What stands between. Each returns OK to let the operation through, or the error that SQLite is to see."""

    def created(self, file: str) -> None:
        """A file that was not there was opened."""

    def write(self, file: str, offset: int, data: bytes) -> int:
        """Bytes are to be written."""

    def truncate(self, file: str, size: int) -> int:
        """The file is to be cut."""

    def sync(self, file: str) -> int:
        """What was written is to be made durable, and the name of a new file with it."""

    def delete(self, file: str, *, synced: bool) -> int:
        """A file is to be removed; `synced` where that is to be durable at once."""


def _function(*arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(c_int, *arguments)


WRITE = _function(c_void_p, c_void_p, c_int, c_int64)
TRUNCATE = _function(c_void_p, c_int64)
SYNC = _function(c_void_p, c_int)
OPEN = _function(c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
DELETE = _function(c_void_p, c_char_p, c_int)
REGISTER = _function(c_void_p, c_int)


class Methods(Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = [
        ("iVersion", c_int), ("xClose", c_void_p), ("xRead", c_void_p), ("xWrite", WRITE), ("xTruncate", TRUNCATE),
        ("xSync", SYNC), ("rest", c_void_p * 13),
    ]  # fmt: skip


class File(Structure):
    """sqlite3_file: what SQLite sees of an open file."""

    _fields_ = [("methods", POINTER(Methods))]


class Vfs(Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = [
        ("iVersion", c_int), ("szOsFile", c_int), ("mxPathname", c_int), ("pNext", c_void_p), ("zName", c_char_p),
        ("pAppData", c_void_p), ("xOpen", OPEN), ("xDelete", DELETE), ("rest", c_void_p * 14),
    ]  # fmt: skip


class Library(NamedTuple):
    """The three functions of the SQLite that the `sqlite3` module uses."""

    find: Any
    register: Any
    unregister: Any


FIND = ctypes.CFUNCTYPE(POINTER(Vfs), c_char_p)
UNREGISTER = _function(c_void_p)
PLACES = {"find": (141, FIND), "register": (142, REGISTER), "unregister": (143, UNREGISTER)}
"""In sqlite3_api_routines, to which SQLite only ever adds at its end."""
EXTENSION = """
void **routines;
int sqlite3_extension_init(void *database, char **error, void **api) { routines = api; return 0; }
"""


def library() -> Library:
    """The functions by their names or, where those are hidden, as SQLite tells them to an extension.

    Raises OSError or AttributeError where neither can be had.
    """
    try:
        by_name = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        return Library(*(kind((f"sqlite3_vfs_{name}", by_name)) for name, (_, kind) in PLACES.items()))
    except (AttributeError, OSError):
        return told()


@functools.cache
def told() -> Library:
    """SQLite is built into the interpreter: an extension, compiled here, is handed a table of its functions."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(sqlite3.connect(":memory:")) as connection:
        (source := Path(folder) / "told.c").write_text(EXTENSION)
        path = Path(folder) / "told.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True, capture_output=True)
        connection.enable_load_extension(True)
        connection.load_extension(str(path))
        table = POINTER(c_void_p).in_dll(ctypes.CDLL(path), "routines")
        return Library(*(kind(table[place]) for place, kind in PLACES.values()))


def reachable() -> bool:
    """Whether a layer can be laid here. In CI that has to be so: nothing is left out there without a word."""
    try:
        return bool(library().find(None))
    except (AttributeError, OSError, subprocess.CalledProcessError):
        if "CI" in os.environ:
            raise
        return False


@contextlib.contextmanager
def between(disk: Disk) -> Generator[None]:
    """For every file that SQLite opens meanwhile."""
    layer = Layer(disk)
    layer.lay()
    try:
        yield
    finally:
        layer.lift()


class Layer:
    """A copy of the default VFS whose files have four functions of ours; the others are the system's."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._library = library()
        self._below = self._library.find(None)
        self._names: dict[int, str] = {}
        self._methods: dict[int, Methods] = {}
        below = self._below.contents
        self._vfs = Vfs.from_buffer_copy(below)
        self._vfs.zName = b"tidings-layer"
        self._vfs.pNext = None
        self._vfs.xOpen = OPEN(self._open)
        self._vfs.xDelete = DELETE(self._delete)

    def lay(self) -> None:
        """Become the default."""
        assert self._library.register(ctypes.byref(self._vfs), 1) == OK

    def lift(self) -> None:
        """Give it back to the system."""
        self._library.unregister(ctypes.byref(self._vfs))
        self._library.register(self._below, 1)

    def _open(self, _: int, name: int | None, file: int, flags: int, got: Any) -> int:
        path = Path(os.fsdecode(ctypes.string_at(name))) if name else None
        new = path is not None and not path.exists()
        code: int = self._below.contents.xOpen(ctypes.addressof(self._below.contents), name, file, flags, got)
        if code == OK and path is not None:  # a file without a name is temporary, and nobody misses it after a crash
            self._names[file] = path.name
            opened = ctypes.cast(file, POINTER(File)).contents
            opened.methods = ctypes.pointer(self._ours(opened.methods.contents))
            if new:
                self._disk.created(path.name)
        return code

    def _ours(self, methods: Methods) -> Methods:
        """A table of methods for each one of the system's."""
        at = ctypes.addressof(methods)
        if at not in self._methods:
            ours = Methods.from_buffer_copy(methods)
            ours.xWrite = WRITE(self._guarded(self._write, methods.xWrite))
            ours.xTruncate = TRUNCATE(self._guarded(self._truncate, methods.xTruncate))
            ours.xSync = SYNC(self._guarded(self._sync, methods.xSync))
            self._methods[at] = ours
        return self._methods[at]

    def _guarded(self, ask: Callable[..., int], below: Any) -> Callable[..., int]:
        """Ask the disk first. An exception in a callback would be taken for success: it becomes an error."""

        def call(*arguments: Any) -> int:
            try:
                return ask(*arguments) or below(*arguments)
            except BaseException:  # noqa: BLE001 - nobody above us but C
                traceback.print_exc()
                return IOERR_WRITE

        return call

    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        return self._disk.write(self._names[file], offset, ctypes.string_at(data, size))

    def _truncate(self, file: int, size: int) -> int:
        return self._disk.truncate(self._names[file], size)

    def _sync(self, file: int, _: int) -> int:
        return self._disk.sync(self._names[file])

    def _delete(self, _: int, name: bytes, synced: int) -> int:
        path = Path(os.fsdecode(name))
        if path.exists() and (code := self._disk.delete(path.name, synced=bool(synced))):
            return code
        below: int = self._below.contents.xDelete(ctypes.addressof(self._below.contents), name, synced)
        return below
