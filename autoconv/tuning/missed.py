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

MOST = 4096
"""Problems kept while the database cannot be written; the oldest go."""


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
        """Write what was taken down; it is kept where that fails."""
        with self._lock:
            notes, self._notes = self._notes, {}
        user = self._layers.database("user") if notes else None
        if user is not None:
            try:
                user.note_misses([_miss(*key, note) for key, note in notes.items()])
                return
            except TuningDBError as error:
                self._warn(f"the misses of this process are not written yet: {error}")
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
