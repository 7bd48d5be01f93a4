"""Look a config up, guess one, or sweep for one: what the dispatcher and the command line share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from autoconv import lookup
from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import Found, Shelf
from autoconv.lookup.legality import in_space
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import best_guess, lead
from autoconv.sweep.executor import Executor, Local, Request
from autoconv.sweep.pool import WorkerPool, Workers
from autoconv.sweep.revalidation import NOTHING_BEFORE, before
from autoconv.sweep.sweep import Job, Progress, Swept
from autoconv.tuning.recent import Recent
from tuning_db import EnvironmentRecord, Layers, Trial, TuningDB, TuningDBError, Winner, single_flight

FLIGHT_SECONDS = 10.0
"""How long a caller waits for another process's sweep of the same problem. Ranks of one job can sit in a
collective operation, so the wait must end; the loser then runs a provisional config."""

MODEL_ERROR = 0.094
"""By how much an estimate is off, typically: that of the best tile of 454 measured float16 GEMMs of an A100,
the largest of three dtypes (docs/cost_model.md, "How well it holds")."""

_TORCH = Found(ATEN, "default", "default", "none", measured_us=None, predicted_us=None)


def no_progress(doing: str, done: float, of: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Tuned:
    """The config to use from now on, and the sweep that found it, if one was needed."""

    found: Found | None  # None: no candidate passed its check
    swept: Swept | None
    pending: bool = False  # another process sweeps it; `found` serves until that has ended


class Tuner:
    """The tuning database of this process, and the sweeps that fill it. Safe to share between threads."""

    def __init__(self, settings: Settings, warn: Callable[[str], None] = lookup.warn_once) -> None:
        """Use the files that `settings` name; trouble with them goes to `warn` and is never an exception."""
        self._settings = settings
        self._warn = warn
        self.layers = lookup.open_layers(settings, warn)
        self._shelf = Shelf(self.layers, predictor_of)
        self._in_vain: Recent[tuple[Problem, Environment]] = Recent()  # swept here, and no winner found

    @property
    def _user(self) -> TuningDB | None:
        """The user's database, None as long as it cannot be opened; `layers` warns of that."""
        return self.layers.database("user")

    def find(self, problem: Problem, environment: Environment) -> Found | None:
        """Return what serves `problem`, of the layers and of what was tuned here and not written; or None.

        Where its module shape is known in this process, no file is touched.
        """
        return self._shelf.find(problem, environment)

    def forget(self) -> None:
        """Read the layers anew when asked next: something was recorded, here or elsewhere."""
        self._shelf.forget()

    def ahead(self, problem: Problem, found: Found, device: Device, workers: Workers) -> bool:
        """Return whether the model's best config is ahead of `found` by more than twice the model's error.

        It takes as long as a guess, some 0.3 s, in one of `workers`. Of torch's own convolution the model
        knows nothing.

        Raises:
            ProblemError: no kernel runs this problem.
        """
        if found.config == ATEN:
            return False
        return workers.call(lead, problem, found.config, device) > 1 + 2 * MODEL_ERROR

    def torch_seconds(self, problem: Problem, environment: Environment) -> float | None:
        """Return what torch's own convolution was measured to take here, None where it was not."""
        times = [
            winner.measured_us
            for _, winner in self.layers.winners(problem.key())
            if winner.config == ATEN.document()
            and winner.environment == _record(environment)
            and winner.provenance == "measured"
        ]
        return min((time / 1e6 for time in times if time is not None), default=None)

    def why_missing(self, problem: Problem, environment: Environment, *, served: bool = False) -> list[str]:
        """Say, a line a field, what the nearest entry differs in, be it `served` by one all the same."""
        return lookup.why_missing(self.layers, problem, environment, predictor_of, served=served)

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
        return self.guess(problem, device) if found is None else lookup.estimated(found, problem, device)

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
        revalidate: bool = False,
        content: Collection[str] = lookup.OWN,
        pool: WorkerPool | None = None,
        executor: Executor | None = None,
        progress: Progress = no_progress,
    ) -> Tuned:
        """Sweep `problem`, unless some layer has it already or another process is at it.

        It has it where a sweep came to its end, here or elsewhere, and, where the device is present,
        measured; times taken beside other work do only for a sweep that is made so too. The user's database
        has it only if the kernels that it tried are today's. What was tried here before with the kernels of
        today, in a sweep that was interrupted, say, is not tried again.

        Args:
            problem: The problem.
            job: What to sweep for, where and how long.
            wait: Seconds to wait for another process that sweeps the same problem; where it takes longer, a
                provisional config is returned.
            again: Sweep even where a layer has the problem, all of it anew.
            revalidate: Be content with nothing but an entry of just this environment; where there is an older
                one, try what was best there first, and sweep on only if that does not hold.
            content: The grades that will do; with "bucket", a near size of the module shape does.
            pool: Worker processes that outlive the sweep; where None, it starts and ends its own.
            executor: Where to sweep, if not here with that pool.
            progress: Told what is being done, how many are done, of how many.

        Raises:
            Cancelled: the pool was closed meanwhile.
            ProblemError: no kernel runs this problem.
            Unavailable: the machine is at fault.
        """
        if executor is not None and job.device.name in executor.devices:
            job = replace(job, on_gpu=True)
        key = f"{problem.key()} {job.environment.hash}"
        with single_flight(self._settings.database, key, wait, self._warn) as mine:
            known = None if again else self.known(problem, job, ("exact",) if revalidate else content)
            if known is not None:
                return Tuned(known, None)
            if not mine:
                return Tuned(self.provisional(problem, job.environment, job.device), None, pending=True)
            first = self._priors(problem, job, pool)
            old = NOTHING_BEFORE
            if revalidate:
                old = before(self.layers, problem, job.environment, measured=job.on_gpu)
            request = Request(problem, job, first, again, old)
            with ExitStack() as stack:
                where = executor or Local(pool or stack.enter_context(WorkerPool()))
                swept = where.sweep(request, self._user, progress)
        self._shelf.forget()
        self._tell(problem, job.environment, swept)
        if swept.winner is None:
            self._in_vain.add((problem, job.environment))
            return Tuned(None, swept)
        found = self._own(problem, job.environment) if swept.recorded else None
        if found is None:
            self._shelf.remember(problem, job.environment, swept.trials)
            found = _unwritten(swept.winner)
        return Tuned(found, swept)

    def _priors(self, problem: Problem, job: Job, pool: WorkerPool | None) -> list[Config]:
        """Return what a sweep tries first: what was best elsewhere for this problem, then for the nearest."""
        environment = job.environment
        offered = partial(pool.compilers.call, in_space) if pool is not None and job.aside else in_space
        near = (
            self.find(problem, environment),
            lookup.transferred(self.layers, problem, environment, job.device, predictor_of, offered),
        )
        configs = [found.config for found in near if found is not None and found.config != ATEN]
        return [*lookup.priors(self.layers, problem, environment), *configs]

    def _tell(self, problem: Problem, environment: Environment, swept: Swept) -> None:
        """Warn of a sweep without a winner, one that stopped early, or one that is not on file: why."""
        if swept.winner is None:
            serves = (
                "torch serves" if self.find(problem, environment) is None else "the earlier result serves"
            )
            self._warn(f"the sweep of {problem} found no winner, {serves}: {swept.why_none()}")
        elif swept.stopped is not None:
            self._warn(f"the sweep of {problem} stopped early, its best so far serves: {swept.stopped}")
        if swept.unrecorded is not None:
            self._warn(
                f"results of {problem} are not recorded, this process alone has them: {swept.unrecorded}"
            )

    def record(self, problem: Problem, environment: Environment, trial: Trial, *, origin: str) -> None:
        """Record a trial made outside a sweep; a database that cannot be written is not an error."""
        user = self._user
        if user is None:
            return
        problem_record, environment_record = lookup.records(problem, environment)
        trial = replace(trial, source=source_of(str(trial.config["kernel"])) or "")
        try:
            user.record(environment_record, problem_record, [trial], origin=origin)
        except TuningDBError as error:
            self._warn(f"a trial was not recorded: {error}")
        self._shelf.forget()

    def known(self, problem: Problem, job: Job, grades: Collection[str] = lookup.OWN) -> Found | None:
        """Return an entry of these grades, of any layer, that a sweep now could not better in provenance."""
        self._shelf.forget()  # another process may have swept it meanwhile
        provenances = lookup.TIMED if job.beside else ("measured",) if job.on_gpu else lookup.OF_ITS_OWN
        known = self._shelf.known(problem, job.environment, grades, provenances)
        return None if known is not None and known.layer == "user" and self._outdated(problem, job) else known

    def _outdated(self, problem: Problem, job: Job) -> bool:
        """Return whether the user's own sweeps of `problem` did not try the kernels of today."""
        try:
            runs = self._user.runs(problem.key()) if self._user else ()
        except TuningDBError:
            return False
        return lookup.outdated(runs, problem, job.environment, on_gpu=job.on_gpu)

    def _own(self, problem: Problem, environment: Environment) -> Found | None:
        """Return the entry of the user's database alone, for this very problem."""
        user = self._user
        if user is None:
            return None
        shelf = Shelf(Layers([("user", user)], self._warn), predictor_of)
        return shelf.known(problem, environment, lookup.OWN, lookup.OF_ITS_OWN, finished=False)


def _record(environment: Environment) -> EnvironmentRecord:
    return EnvironmentRecord(environment.hard(), environment.soft())


def _unwritten(winner: Winner) -> Found:
    config = Config.from_document(winner.config)
    return Found(config, winner.provenance, "exact", "memory", **lookup.times_of(winner))
