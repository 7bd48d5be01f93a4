"""SQLite connections: one per thread and process, and the one way to write."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .errors import TuningDBError

BUSY_TIMEOUT_S = 30.0

# A forked child must neither use nor close what its parent opened; kept here, it is never finalised.
_inherited: list[sqlite3.Connection] = []


def _close(connection: sqlite3.Connection, pid: int) -> None:
    if pid == os.getpid():
        connection.close()
    else:
        _inherited.append(connection)


class _Handle:
    """Owns one connection and closes it with its thread, or when Python exits, unless it came over a fork."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.pid = os.getpid()
        self.close = weakref.finalize(self, _close, connection, self.pid)


class Connections:
    """Hands every thread of every process its own connection to one file.

    `mode` is SQLite's: "rwc" creates the file, "ro" never writes. With `immutable` SQLite takes no locks and
    looks for no journal, which suits a packaged file and is wrong for one that may change.
    """

    def __init__(self, path: Path, mode: str, *, immutable: bool = False) -> None:
        """Note what to open; the first `get` opens it."""
        self.path = path
        self._uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if immutable else ''}"
        self.readonly = mode == "ro"
        self._local = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._closed = False

    def get(self) -> sqlite3.Connection:
        """Return this thread's connection, opened anew after a fork.

        Raises:
            TuningDBError: the database was closed.
            sqlite3.Error: the file cannot be opened.
        """
        if self._closed:
            raise TuningDBError(self.path, "it was closed", "open it again")
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None or handle.pid != os.getpid():
            handle = _Handle(self._connect())
            self._local.handle = handle
            self._handles.add(handle)
        return handle.connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            # Damaged bytes in a text must spoil its row only, and the row's checksum finds them.
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            if not self.readonly:
                connection.execute("PRAGMA journal_mode = DELETE")
            on_failure.pop_all()
        return connection

    def close(self) -> None:
        """Close the connections of every thread."""
        self._closed = True
        for handle in list(self._handles):
            handle.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction that holds the write lock from its start, so never has to upgrade."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
