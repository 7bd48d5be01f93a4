"""SQLite connections: one per thread and process, to the file that lies at a path now; how to write."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from .errors import TuningDBError

# How long to wait for a lock that somebody else holds. Writers take turns, and one may be merging a large
# file; a reader is locked out during commits only, and somebody waits for its answer.
WRITE_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 5.0

# How long a fork waits for other threads to come out of SQLite; see `_Gate`.
FORK_TIMEOUT_S = 2.0

# A forked child must neither use nor close what its parent opened; kept here, it is never finalised.
_inherited: list[sqlite3.Connection] = []


class _Gate:
    """Entered by every thread that uses SQLite; a fork waits, a while, until no other thread is inside.

    SQLite keeps in memory which locks this process has on a file, and guards its own memory with mutexes. A
    child that was forked meanwhile would find both held for ever, by nobody.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: dict[int, int] = {}  # how often each thread entered
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child
        )

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._condition:
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._condition:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                self._condition.notify_all()

    def _before_fork(self) -> None:
        me = {threading.get_ident()}
        self._condition.acquire()
        self._condition.wait_for(lambda: self._inside.keys() <= me, FORK_TIMEOUT_S)

    def _after_fork(self) -> None:
        self._condition.release()

    def _in_child(self) -> None:
        me = threading.get_ident()
        self._condition = threading.Condition()
        self._inside = {thread: count for thread, count in self._inside.items() if thread == me}


gate = _Gate()


def _close(connection: sqlite3.Connection, pid: int) -> None:
    if pid == os.getpid():
        with gate:
            connection.close()
    else:
        _inherited.append(connection)


class _Handle:
    """Owns one connection and closes it with its thread, or when Python exits, unless it came over a fork."""

    def __init__(self, connection: sqlite3.Connection, file: tuple[int, int] | None) -> None:
        self.connection = connection
        self.file = file
        self.pid = os.getpid()
        self.close = weakref.finalize(self, _close, connection, self.pid)


class Connections:
    """Hands every thread of every process its own connection to one file.

    `mode` is SQLite's: "rwc" creates the file, "ro" never writes. With `immutable` SQLite takes no locks and
    looks for no journal, which suits a packaged file and is wrong for one that may change. `prepare` sees
    each connection first. Where another file has come to lie at the path (a damaged one was moved aside, a
    packaged one replaced), the next use of a connection goes to that one.
    """

    def __init__(
        self, path: Path, mode: str, prepare: Callable[[sqlite3.Connection], None], *, immutable: bool = False
    ) -> None:
        """Note what to open; the first `get` opens it."""
        self.path = path
        self._uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if immutable else ''}"
        self.readonly = mode == "ro"
        self._prepare = prepare
        self._local = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._closed = False

    def get(self) -> sqlite3.Connection:
        """Return this thread's connection, opened anew after a fork and when the file is another.

        Raises:
            TuningDBError: the database was closed, or `prepare` refuses it.
            sqlite3.Error: the file cannot be opened.
        """
        if self._closed:
            raise TuningDBError(self.path, "it was closed", "open it again")
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None or handle.pid != os.getpid() or self._is_stale(handle):
            self._local.handle = None  # closes the old one
            handle = self._open()
            self._local.handle = handle
            self._handles.add(handle)
        return handle.connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a transaction on this thread's connection: all of it or nothing."""
        while True:
            connection = self.get()
            with transaction(connection):
                # Whoever moves the file aside holds it exclusively meanwhile, so now it stays where it is.
                if not self._is_stale(self._local.handle, in_transaction=True):
                    yield connection
                    return

    def _is_stale(self, handle: _Handle, *, in_transaction: bool = False) -> bool:
        if handle.connection.in_transaction and not in_transaction:
            return False
        now = _identity(self.path)
        return now != handle.file and not (now is None and self.readonly)

    def _open(self) -> _Handle:
        while True:
            before = _identity(self.path)
            connection = self._connect()
            if before == _identity(self.path):
                return _Handle(connection, before)
            connection.close()  # it was being created or replaced: which one was opened is uncertain

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri, uri=True, timeout=READ_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            # Damaged bytes in a text must spoil its row only, and the row's checksum finds them.
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            if not self.readonly:
                connection.execute("PRAGMA journal_mode = DELETE")
            self._prepare(connection)
            on_failure.pop_all()
        return connection

    def close(self) -> None:
        """Close the connections of every thread."""
        self._closed = True
        for handle in list(self._handles):
            handle.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at `path` from any other, None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - Path.stat takes four times as long, and this is in every lookup
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction that holds the write lock from its start, so never has to upgrade."""
    connection.execute(f"PRAGMA busy_timeout = {WRITE_TIMEOUT_S * 1000:.0f}")
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute(f"PRAGMA busy_timeout = {READ_TIMEOUT_S * 1000:.0f}")
