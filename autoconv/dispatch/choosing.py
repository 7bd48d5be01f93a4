"""Which config a call gets: what the database knows, or what the policy on misses says."""

from __future__ import annotations

import threading

from autoconv.dispatch.apart import begun
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.plans import Key, Plans, Subject
from autoconv.errors import MissError
from autoconv.lookup import Found, warn_once
from autoconv.settings import Settings
from autoconv.sweep.outcomes import outcome_of
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import FLIGHT_SECONDS, Tuner


class Chooser:
    """Looks configs up, and sweeps as the policy says; at most one sweep of a subject in a process.

    Attributes:
        swept: what this process sweeps or has swept; never a second time.
        provisional: the plans to drop when the sweep beside them ends, by its subject.
    """

    def __init__(self, machine: Machine, settings: Settings, tuner: Tuner, plans: Plans) -> None:
        """Choose for `plans` of calls on `machine`."""
        self._machine = machine
        self._settings = settings
        self._tuner = tuner
        self._plans = plans
        self.swept: set[Subject] = set()
        self.provisional: dict[Subject, set[Key]] = {}

    def choose(self, subject: Subject, key: Key, ordinal: int) -> Found:
        """Return the config for the plan at `key`, of calls on the device at `ordinal`.

        To be called under the plans' lock.

        Raises:
            MissError: the policy is strict, and the database has no entry.
        """
        problem, device, environment = subject
        found = self._tuner.find(problem, environment)
        policy = self._settings.on_miss
        if found is None and policy == "strict":
            raise MissError(str(problem), self._tuner.why_missing(problem, environment))
        if found is None and policy in ("sweep", "background") and not self._plans.forked:
            seconds, on_gpu = self._settings.sweep_seconds, self._machine.on_gpu
            job = Job(device, environment, self._settings.cache, on_gpu, seconds, ordinal=ordinal)
            found = self._swept_for(subject, job, key)
        return found or self._tuner.provisional(problem, environment, device)

    def _swept_for(self, subject: Subject, job: Job, key: Key) -> Found | None:
        """Sweep now or in a thread, as the policy says; None where a guess has to serve, if only for now."""
        if subject in self.provisional:
            self.provisional[subject].add(key)
            return None
        if subject in self.swept:
            return None
        self.swept.add(subject)
        if self._settings.on_miss == "sweep":
            found = self._tune(subject, job, FLIGHT_SECONDS)
            if found is None or found.hit:
                return found
            # Another process is at it, and takes longer than a call should wait.
        self.provisional[subject] = {key}
        beside = self._sweep_beside
        threading.Thread(target=beside, args=(subject, job), name="autoconv tuner", daemon=True).start()
        return None

    def _sweep_beside(self, subject: Subject, job: Job) -> None:
        """Sweep, or wait for the process that does; then drop the provisional plans, to be made anew."""
        try:
            self._tune(subject, job, wait=2 * job.seconds)
        finally:
            with self._plans.alone():
                self._plans.drop(self.provisional.pop(subject))

    def _tune(self, subject: Subject, job: Job, wait: float) -> Found | None:
        problem = subject.problem
        with WorkerPool() as pool:  # ended at once where a signal's handler raises below
            sweep = begun(lambda: self._tuner.tune(problem, job, wait=wait, pool=pool), "autoconv sweep")
            error = sweep.exception()
        if error is None:
            return sweep.result().found
        if not isinstance(error, Cancelled):  # by the interpreter's exit
            # Processes, files, compilers: whatever a sweep fails of, a convolution must not fail.
            warn_once(f"the sweep of {problem} failed, a prediction serves: {outcome_of(error).reason}")
        return None
