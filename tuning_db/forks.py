"""Forks: SQLite must not be copied in mid-use, nor may anything be copied locked."""

from __future__ import annotations

import os
import threading

# How long a fork waits for other threads to come out of SQLite; see `Gate`.
FORK_TIMEOUT_S = 2.0


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
