"""Look a config up, guess one, or sweep for one: what the dispatcher and the command line share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from autoconv import lookup
from autoconv.config import Config
from autoconv.cost.model import estimate
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.lookup import Found
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.pool import Crew
from autoconv.sweep.sweep import Job, Progress, Swept, sweep
from tuning_db import Layers, Trial, TuningDB, TuningDBError, Winner, single_flight

FLIGHT_SECONDS = 10.0
"""How long a caller waits for another process's sweep of the same problem. Ranks of one job can sit in a
collective operation, so the wait must end; the loser then runs a provisional config."""


def no_progress(doing: str, done: int, of: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Tuned:
    """The config to use from now on, and the sweep that found it, if one was needed."""

    found: Found | None  # None: no candidate passed its check
    swept: Swept | None


class Tuner:
    """The tuning database of this process, and the sweeps that fill it. Safe to share between threads."""

    def __init__(self, settings: Settings, warn: Callable[[str], None] = lookup.warn_once) -> None:
        """Use the files that `settings` name; trouble with them goes to `warn` and is never an exception."""
        self._settings = settings
        self._warn = warn
        self.layers = lookup.open_layers(settings, warn)
        self._in_memory: dict[tuple[Problem, Environment], Found] = {}

    @property
    def _user(self) -> TuningDB | None:
        """The user's database, None as long as it cannot be opened; `layers` warns of that."""
        return self.layers.database("user")

    def find(self, problem: Problem, environment: Environment) -> Found | None:
        """Return what this process tuned and could not write, or else the best entry of the layers."""
        found = self._in_memory.get((problem, environment))
        return found or lookup.find(self.layers, problem, environment)

    def why_missing(self, problem: Problem, environment: Environment) -> list[str]:
        """Say, a line a field, what the nearest entry differs in."""
        return lookup.why_missing(self.layers, problem, environment)

    def guess(self, problem: Problem, device: Device) -> Found:
        """Return the config with the least estimated time; nothing is compiled or checked."""
        config, seconds = best_guess(problem, device)
        return Found(config, "predicted", "default", "none", measured_us=None, predicted_us=seconds * 1e6)

    def provisional(self, problem: Problem, environment: Environment, device: Device) -> Found:
        """Return what serves until a sweep has ended: a config found elsewhere, or else a guess."""
        found = lookup.transferred(self.layers, problem, environment, device)
        if found is None or found.config == ATEN:
            return found or self.guess(problem, device)
        return replace(found, predicted_us=estimate(problem, found.config, device).seconds * 1e6)

    def kernel_for(self, problem: Problem, environment: Environment, device: Device) -> Config:
        """Return the config of one of our kernels for `problem`: the database's, or else a guess."""
        found = self.find(problem, environment)
        return found.config if found and found.config != ATEN else self.guess(problem, device).config

    def tune(
        self,
        problem: Problem,
        job: Job,
        *,
        wait: float = FLIGHT_SECONDS,
        again: bool = False,
        crew: Crew | None = None,
        progress: Progress = no_progress,
    ) -> Tuned:
        """Sweep `problem`, unless the user's database has it already or another process is at it.

        Args:
            problem: The problem.
            job: What to sweep for, where and how long.
            wait: Seconds to wait for another process that sweeps the same problem; where it takes longer, a
                provisional config is returned.
            again: Sweep even where the database has the problem.
            crew: Worker processes that outlive the sweep; where None, it starts and ends its own.
            progress: Told what is being done, how many are done, of how many.

        Raises:
            ProblemError: no kernel runs this problem.
        """
        key = f"{problem.key()} {job.environment.hash}"
        with single_flight(self._settings.database, key, wait, self._warn) as mine:
            known = self._swept_before(problem, job)
            if known is not None and not again:
                return Tuned(known, None)
            if not mine:
                return Tuned(self.provisional(problem, job.environment, job.device), None)
            first = lookup.priors(self.layers, problem, job.environment)
            with nullcontext(crew) if crew else Crew() as workers:
                swept = sweep(problem, job, self._user, workers, progress, first)
        if swept.winner is None:
            return Tuned(None, swept)
        found = self._own(problem, job.environment)
        if found is None:
            found = _of_memory(swept.winner)
            self._in_memory[problem, job.environment] = found
        return Tuned(found, swept)

    def record(self, problem: Problem, environment: Environment, trial: Trial, *, origin: str) -> None:
        """Record a trial made outside a sweep; a database that cannot be written is no error."""
        user = self._user
        if user is None:
            return
        problem_record, environment_record = lookup.records(problem, environment)
        try:
            user.record(environment_record, problem_record, [trial], origin=origin)
        except TuningDBError as error:
            self._warn(f"a trial was not recorded: {error}")

    def _swept_before(self, problem: Problem, job: Job) -> Found | None:
        """Return the user's own entry, if a sweep now could not better its provenance."""
        found = self._in_memory.get((problem, job.environment)) or self._own(problem, job.environment)
        return found if found and (found.provenance == "measured" or not job.on_gpu) else None

    def _own(self, problem: Problem, environment: Environment) -> Found | None:
        """Return the exact entry of the user's database alone."""
        user = self._user
        if user is None:
            return None
        found = lookup.find(Layers([("user", user)], self._warn), problem, environment)
        return found if found and found.grade == "exact" else None


def _of_memory(winner: Winner) -> Found:
    return Found(
        Config.from_document(winner.config),
        winner.provenance,
        "exact",
        "memory",
        measured_us=winner.measured_us,
        predicted_us=winner.predicted_us,
    )
