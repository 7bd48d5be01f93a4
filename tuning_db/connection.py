"""SQLite connections: a bounded number, lent to threads, to the file that lies at a path now; and forks."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from .errors import BusyError, TuningDBError

# How long to wait for a lock that somebody else holds. Writers take turns, and one may be merging a large
# file; a reader is locked out during commits only, and somebody waits for its answer.
WRITE_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 5.0

# Connections to one file that a process has open at most, each two or three descriptors of its 1,024, say.
# Threads beyond that take turns: the interpreter runs one at a time, and a lookup takes 0.1 ms.
MOST_CONNECTIONS = 16

# How long a fork waits for other threads to come out of SQLite; see `Gate`.
FORK_TIMEOUT_S = 2.0

# A forked child must neither use nor close what its parent opened; kept here, it is never finalised.
_inherited: list[sqlite3.Connection] = []


class Gate:
    """Entered by every thread that uses SQLite; a fork waits, a while, until no other thread is inside.

    SQLite keeps in memory which locks this process has on a file, and guards its own memory with mutexes. A
    child that was forked meanwhile would find both held for ever, by nobody.

    Attributes:
        cut_off: whether this process is such a child, since a thread stayed inside for longer than a fork
            waits; it must not use SQLite at all.
    """

    def __init__(self) -> None:
        """Watch the forks of this process."""
        self.cut_off = False
        self._condition = threading.Condition()
        self._inside: dict[int, int] = {}  # how often each thread entered
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child
        )

    def __enter__(self) -> None:
        """Keep other threads from forking, a while."""
        me = threading.get_ident()
        with self._condition:
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        """Let them fork."""
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
        self.cut_off = self.cut_off or not self._inside.keys() <= {me}
        self._inside = {thread: count for thread, count in self._inside.items() if thread == me}


gate = Gate()


class _Patience(threading.local):
    lost = False


_patience = _Patience()


@contextmanager
def without_waiting() -> Iterator[None]:
    """Have this thread take a file that others lock for busy at once, during the block."""
    before, _patience.lost = _patience.lost, True
    try:
        yield
    finally:
        _patience.lost = before


def patience(seconds: float) -> float:
    """Return for how long this thread may wait now, where `seconds` is the longest."""
    return 0.0 if _patience.lost else seconds


def _close(connection: sqlite3.Connection, pid: int) -> None:
    if pid == os.getpid():
        with gate:
            connection.close()
    else:
        _inherited.append(connection)


class _Handle:
    """Owns one connection; closes it when nobody has the handle any more, unless it came over a fork."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.connection: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None
        self.waits = 0.0  # seconds
        self.close: Callable[[], object] = lambda: None

    def hold(self, connection: sqlite3.Connection, file: tuple[int, int] | None, waits: float) -> None:
        self.close()
        self.connection, self.file, self.waits = connection, file, waits
        self.close = closing = weakref.finalize(self, _close, connection, self.pid)
        # The exit of the process closes it: a daemon's thread may be in it then, and others write at exit.
        closing.atexit = False


class _Lent(threading.local):
    """What this thread has: a handle, as long as it is in one or more blocks that use the file."""

    handle: _Handle | None = None
    depth = 0


class Connections:
    """Lends threads, in every process, connections to one file: a context manager, which may be nested.

    A thread has one connection to itself from the outermost block on. There are MOST_CONNECTIONS at most; who
    finds them all lent waits for one.

    `mode` is SQLite's: "rwc" creates the file, "ro" never writes. With `immutable` SQLite takes no locks and
    looks for no journal, which suits a packaged file and is wrong for one that may change. `prepare` sees
    each connection first. Where another file has come to lie at the path (a damaged one was moved aside, a
    packaged one replaced), the next use of a connection goes to that one.
    """

    def __init__(
        self, path: Path, mode: str, prepare: Callable[[sqlite3.Connection], None], *, immutable: bool = False
    ) -> None:
        """Note what to open; the first use opens it."""
        self.path = path.absolute()
        self._uri = f"{self.path.as_uri()}?mode={mode}{'&immutable=1' if immutable else ''}"
        self.readonly = mode == "ro"
        self._prepare = prepare
        self._lent = _Lent()
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Have no connections and no lock; a forked child begins anew, whatever its parent was doing."""
        self._idle: list[_Handle] = []
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._returned = threading.Condition()
        self._pid = os.getpid()

    def __enter__(self) -> sqlite3.Connection:
        """Return this thread's connection.

        Raises:
            TuningDBError: the database was closed, `prepare` refuses it, every connection is in use, or the
                process was forked while another thread used SQLite.
            sqlite3.Error: the file cannot be opened.
        """
        return self._enter(READ_TIMEOUT_S)

    def __exit__(self, *_: object) -> None:
        """Give the connection back at the end of the outermost block."""
        lent = self._lent
        try:
            lent.depth -= 1
            if not lent.depth:
                handle, lent.handle = lent.handle, None
                if handle is not None:
                    self._give_back(handle)
        finally:
            gate.__exit__()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block in a transaction on this thread's connection: all of it or nothing."""
        connection = self._enter(WRITE_TIMEOUT_S)
        try:
            while True:
                with transaction(connection):
                    # Whoever moves the file aside holds it locked meanwhile, so now it stays where it is.
                    if not self._is_stale(in_transaction=True):
                        yield connection
                        return
                connection = self._current()
        finally:
            self.__exit__()

    def _enter(self, longest: float) -> sqlite3.Connection:
        lent = self._lent
        if gate.cut_off:
            reason = "this process was forked while another thread used a database"
            raise BusyError(self.path, reason, "fork before the first lookup, or spawn")
        if lent.handle is None or lent.handle.pid != os.getpid():
            lent.handle = self._borrowed(longest)
        lent.depth += 1
        gate.__enter__()
        try:
            return self._current()
        except BaseException:  # whatever it is: what was entered must be left
            self.__exit__()
            raise

    def _borrowed(self, longest: float) -> _Handle:
        """Return a handle that no other thread has, after a wait for one of a full number."""
        if self._pid != os.getpid():
            self._begin()

        def is_there() -> bool:
            return bool(self._idle) or len(self._handles) < MOST_CONNECTIONS

        with self._returned:
            if not self._returned.wait_for(is_there, patience(longest)):
                reason = f"{MOST_CONNECTIONS} threads of this process keep it busy"
                raise BusyError(self.path, reason, "try again when one of them is done")
            if self._idle:
                return self._idle.pop()
            handle = _Handle()
            self._handles.add(handle)
            return handle

    def _give_back(self, handle: _Handle) -> None:
        connection = handle.connection
        if handle.pid != os.getpid():
            return
        sound = connection is not None and not self._closed and not connection.in_transaction
        with self._returned:
            if sound:
                self._idle.append(handle)
            else:
                self._handles.discard(handle)
            self._returned.notify()

    def _current(self) -> sqlite3.Connection:
        """Return the connection of this thread's handle, opened anew where the file is another."""
        handle = self._lent.handle
        assert handle is not None  # the caller is in a block
        if self._closed:
            raise TuningDBError(self.path, "it was closed", "open it again")
        if handle.connection is None or self._is_stale():
            self._open(handle)
        assert handle.connection is not None
        waits = patience(READ_TIMEOUT_S)
        if handle.waits != waits and not handle.connection.in_transaction:
            set_patience(handle.connection, READ_TIMEOUT_S)
            handle.waits = waits
        return handle.connection

    def _is_stale(self, *, in_transaction: bool = False) -> bool:
        handle = self._lent.handle
        assert handle is not None and handle.connection is not None
        if handle.connection.in_transaction and not in_transaction:
            return False
        now = _identity(self.path)
        return now != handle.file and not (now is None and self.readonly)

    def _open(self, handle: _Handle) -> None:
        while True:
            before = _identity(self.path)
            connection = self._connect()
            if before == _identity(self.path):
                handle.hold(connection, before, patience(READ_TIMEOUT_S))
                return
            connection.close()  # it was being created or replaced: which one was opened is uncertain

    def _connect(self) -> sqlite3.Connection:
        waits = patience(READ_TIMEOUT_S)
        connection = sqlite3.connect(
            self._uri, uri=True, timeout=waits, isolation_level=None, check_same_thread=False
        )
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            # Damaged bytes in a text must spoil its row only, and the row's checksum finds them.
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            # The journal's mode is the file's: a new one has a rollback journal, and who put it in WAL mode
            # may have it open, when no other mode can be had.
            connection.execute("PRAGMA synchronous = FULL")
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


def set_patience(connection: sqlite3.Connection, longest: float) -> None:
    """Have a connection wait so long, seconds, or not at all, for a lock that somebody else holds."""
    connection.execute(f"PRAGMA busy_timeout = {patience(longest) * 1000:.0f}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction that holds the write lock from its start, so never has to upgrade."""
    set_patience(connection, WRITE_TIMEOUT_S)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        set_patience(connection, READ_TIMEOUT_S)
