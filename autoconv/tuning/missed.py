"""What this process had no tuned config for, until it is written to the user's database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from autoconv import lookup
from autoconv.environment import Environment
from autoconv.problem import Problem
from tuning_db import Layers, Miss, TuningDBError
from tuning_db.connection import WRITE_TIMEOUT_S, patience

MOST = 4096
"""Problems kept while the database cannot be written; the oldest go."""

TURN_SECONDS = 1.0
"""Waited, even by what must not wait for the database, for another thread that is writing."""


@dataclass
class _Note:
    served: str
    first_seen: str
    last_seen: str
    calls: int = 0


class Missed:
    """Misses in memory, many of which `flush` writes in one transaction. Safe to share between threads."""

    def __init__(self, layers: Layers, warn: Callable[[str], None] = lookup.warn_once) -> None:
        """Write to the user's database of `layers`; trouble with it goes to `warn`."""
        self._layers = layers
        self._warn = warn
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._notes: dict[tuple[Problem, Environment], _Note] = {}

    def add(self, problem: Problem, environment: Environment, calls: int, served: str, since: str) -> None:
        """Take down `calls` of a problem.

        Args:
            problem: What was called for.
            environment: Where.
            calls: How many since they were last taken down.
            served: What served them: "torch", or the grade of a config.
            since: When the first of them came, as `now` gives it.
        """
        with self._lock:
            note = self._notes.setdefault((problem, environment), _Note(served, since, since))
            note.calls += calls
            note.served, note.last_seen = served, now()
            if len(self._notes) > MOST:
                del self._notes[next(iter(self._notes))]

    def flush(self) -> None:
        """Write what was taken down; it is kept where that fails.

        What another thread is writing meanwhile is written too when this returns, unless that takes longer
        than the database may be busy.
        """
        turn = self._writing.acquire(timeout=max(TURN_SECONDS, patience(WRITE_TIMEOUT_S)))
        try:
            self._write()
        finally:
            if turn:
                self._writing.release()

    def _write(self) -> None:
        with self._lock:
            notes, self._notes = self._notes, {}
        try:
            user = self._layers.database("user") if notes else None
            if user is not None:
                user.note_misses([_miss(*key, note) for key, note in notes.items()])
                notes = {}
        except TuningDBError as error:
            self._warn(f"the misses of this process are not written yet: {error}")
        finally:
            if notes:
                self._restore(notes)

    def _restore(self, notes: dict[tuple[Problem, Environment], _Note]) -> None:
        """Take `notes` back, older than what came since."""
        with self._lock:
            later, self._notes = self._notes, notes
        for (problem, environment), note in later.items():
            self.add(problem, environment, note.calls, note.served, note.first_seen)


def now() -> str:
    """Return the time as the database keeps it, in UTC and whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _miss(problem: Problem, environment: Environment, note: _Note) -> Miss:
    of_problem, of_environment = lookup.records(problem, environment)
    return Miss(of_problem, of_environment, note.calls, note.served, note.first_seen, note.last_seen)
