"""Look a config up, guess one, or sweep for one: what the dispatcher and the command line share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from autoconv import lookup
from autoconv.config import Config
from autoconv.cost.predict import estimate
from autoconv.cost.version import predictor_of
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import Found
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job, Progress, Swept, sweep
from tuning_db import Layers, Trial, TuningDB, TuningDBError, Winner, single_flight

FLIGHT_SECONDS = 10.0
"""How long a caller waits for another process's sweep of the same problem. Ranks of one job can sit in a
collective operation, so the wait must end; the loser then runs a provisional config."""

_TORCH = Found(ATEN, "default", "default", "none", measured_us=None, predicted_us=None)


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
        self._in_vain: set[tuple[Problem, Environment]] = set()  # swept here, and no winner found

    @property
    def _user(self) -> TuningDB | None:
        """The user's database, None as long as it cannot be opened; `layers` warns of that."""
        return self.layers.database("user")

    def find(self, problem: Problem, environment: Environment) -> Found | None:
        """Return what this process tuned and could not write, or else the best entry of the layers."""
        found = self._in_memory.get((problem, environment))
        return found or lookup.find(self.layers, problem, environment, predictor_of)

    def ahead(self, problem: Problem, found: Found, device: Device) -> bool:  # noqa: ARG002
        """Return whether the model's best for `problem` is ahead of `found` by more than its error allows."""
        return False

    def why_missing(self, problem: Problem, environment: Environment) -> list[str]:
        """Say, a line a field, what the nearest entry differs in."""
        return lookup.why_missing(self.layers, problem, environment, predictor_of)

    def guess(self, problem: Problem, device: Device) -> Found:
        """Return the config with the least estimated time; nothing is compiled or checked."""
        config, seconds = best_guess(problem, device)
        return Found(config, "predicted", "default", "none", measured_us=None, predicted_us=seconds * 1e6)

    def provisional(self, problem: Problem, environment: Environment, device: Device) -> Found:
        """Return what serves until a sweep has ended: a config found elsewhere, or else a guess.

        Where one has ended without a winner, torch serves: any config may be one that it found wrong.
        """
        if (problem, environment) in self._in_vain:
            return _TORCH
        found = lookup.transferred(self.layers, problem, environment, device, predictor_of)
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
        pool: WorkerPool | None = None,
        progress: Progress = no_progress,
    ) -> Tuned:
        """Sweep `problem`, unless the user's database has it already or another process is at it.

        What was tried here before with the kernels of today, in a sweep that was interrupted, say, is not
        tried again.

        Args:
            problem: The problem.
            job: What to sweep for, where and how long.
            wait: Seconds to wait for another process that sweeps the same problem; where it takes longer, a
                provisional config is returned.
            again: Sweep even where the database has the problem, all of it anew.
            pool: Worker processes that outlive the sweep; where None, it starts and ends its own.
            progress: Told what is being done, how many are done, of how many.

        Raises:
            Cancelled: the pool was closed meanwhile.
            ProblemError: no kernel runs this problem.
            Unavailable: the machine is at fault.
        """
        key = f"{problem.key()} {job.environment.hash}"
        with single_flight(self._settings.database, key, wait, self._warn) as mine:
            known = self._swept_before(problem, job)
            if known is not None and not again:
                return Tuned(known, None)
            if not mine:
                return Tuned(self.provisional(problem, job.environment, job.device), None)
            first = lookup.priors(self.layers, problem, job.environment)
            with nullcontext(pool) if pool else WorkerPool() as workers:
                swept = sweep(problem, job, self._user, workers, progress, first, again=again)
        self._tell(problem, job.environment, swept)
        if swept.winner is None:
            self._in_vain.add((problem, job.environment))
            return Tuned(None, swept)
        found = self._own(problem, job.environment) if swept.recorded else None
        if found is None:
            found = _of_memory(swept.winner)
            self._in_memory[problem, job.environment] = found
        return Tuned(found, swept)

    def _tell(self, problem: Problem, environment: Environment, swept: Swept) -> None:
        """Warn of a sweep without a winner, or one that stopped early: why, and what serves."""
        if swept.winner is None:
            serves = (
                "torch serves" if self.find(problem, environment) is None else "the earlier result serves"
            )
            self._warn(f"the sweep of {problem} found no winner, {serves}: {swept.why_none()}")
        elif swept.stopped is not None:
            self._warn(f"the sweep of {problem} stopped early, its best so far serves: {swept.stopped}")

    def record(self, problem: Problem, environment: Environment, trial: Trial, *, origin: str) -> None:
        """Record a trial made outside a sweep; a database that cannot be written is no error."""
        user = self._user
        if user is None:
            return
        problem_record, environment_record = lookup.records(problem, environment)
        trial = replace(trial, source=source_of(str(trial.config["kernel"])) or "")
        try:
            user.record(environment_record, problem_record, [trial], origin=origin)
        except TuningDBError as error:
            self._warn(f"a trial was not recorded: {error}")

    def _swept_before(self, problem: Problem, job: Job) -> Found | None:
        """Return the user's own entry, if a sweep now could not better its provenance."""
        found = self._in_memory.get((problem, job.environment))
        if found is not None and (found.provenance == "measured" or not job.on_gpu):
            return found
        user = self._user
        if user is None:
            return None
        try:
            runs = user.runs(problem.key())
        except TuningDBError:
            return None
        known = lookup.covered(runs, problem, job.environment, predictor_of, on_gpu=job.on_gpu)
        return self._own(problem, job.environment) if known else None

    def _own(self, problem: Problem, environment: Environment) -> Found | None:
        """Return the entry of the user's database alone."""
        user = self._user
        if user is None:
            return None
        return lookup.find(Layers([("user", user)], self._warn), problem, environment, predictor_of)


def _of_memory(winner: Winner) -> Found:
    return Found(
        Config.from_document(winner.config),
        winner.provenance,
        "exact",
        "memory",
        measured_us=winner.measured_us,
        predicted_us=winner.predicted_us,
    )
