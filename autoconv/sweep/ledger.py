"""What sweeps use of a tuning database, so that something else may stand in for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tuning_db import EnvironmentRecord, ProblemRecord, RunRecord, Trial


class Ledger(Protocol):
    """What of a tuning database a sweep uses; see `tuning_db.TuningDB`."""

    def start(
        self, environment: EnvironmentRecord, *, origin: str, info: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run and return its id."""

    def add(self, run_id: str, problem: ProblemRecord, trial: Trial) -> None:
        """Commit one trial."""

    def finish(self, run_id: str) -> None:
        """Note that a run came to its end."""

    def trials(self, problem_key: str, environment_hash: str | None = None) -> list[Trial]:
        """Return the trials of one problem."""

    def runs(self, problem_key: str) -> list[RunRecord]:
        """Return the runs that have trials of one problem."""
