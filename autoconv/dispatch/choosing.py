"""Which config a call gets: what the database knows, or what the policy on misses says."""

from __future__ import annotations

from autoconv.dispatch.apart import begun
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.plans import Plan, Plans, Subject
from autoconv.errors import MissError
from autoconv.lookup import Found, warn_once
from autoconv.settings import Settings, policy
from autoconv.sweep.outcomes import outcome_of
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job
from autoconv.tuning.background import SHARE, Background, paused
from autoconv.tuning.recent import Recent
from autoconv.tuning.tuner import FLIGHT_SECONDS, Tuner
from autoconv.tuning.waiting import Wanted


class Chooser:
    """Looks configs up, and has swept what the policy says; at most one sweep of a subject in a process.

    Attributes:
        swept: what calls of this process have swept; not a second time, unless very many came since.
    """

    def __init__(
        self, machine: Machine, settings: Settings, tuner: Tuner, plans: Plans, background: Background[Plan]
    ) -> None:
        """Choose for `plans` of calls on `machine`."""
        self._machine = machine
        self._settings = settings
        self._tuner = tuner
        self._plans = plans
        self._background = background
        self.swept: Recent[Subject] = Recent()

    @property
    def policy(self) -> str:
        """What a call of this thread does on a miss."""
        return policy.name or self._settings.on_miss

    @property
    def beside(self) -> bool:
        """Whether a call that has no plan yet may leave work to the tuner of the background."""
        return self.policy == "background" and self._background.here

    def job(self, plan: Plan, why: str, share: float = 1.0) -> Job:
        """Return the sweep of a plan's subject."""
        assert plan.subject is not None
        _, device, environment = plan.subject
        seconds, on_gpu = self._settings.sweep_seconds, self._machine.on_gpu
        return Job(
            device, environment, self._settings.cache, on_gpu, seconds, ordinal=plan.ordinal, share=share,
            why=why,
        )  # fmt: skip

    def choose(self, plan: Plan) -> Found | None:
        """Return the config for `plan`; None where torch is to serve. To be called under the plans' lock.

        Raises:
            MissError: the policy is strict, and the database has no entry.
        """
        assert plan.subject is not None
        problem, device, environment = plan.subject
        found = self._tuner.find(problem, environment)
        known = found is not None and found.grade != "carried"
        if not known and self.policy == "sweep" and not (self._plans.forked or paused()):
            found = self._swept_for(plan.subject, plan) or found
        plan.missed = _is_missed(plan, found)
        if found is None and self.policy == "strict":
            self._plans.note(plan.subject, "none")
            self._background.wake()
            raise MissError(str(problem), self._tuner.why_missing(problem, environment))
        if found is None and self.policy == "predict":
            return self._tuner.provisional(problem, environment, device)
        if self.beside and not self._tuner.layers.pinned and not self._queue(plan, found):
            found = self._tuner.find(problem, environment)  # its sweep may have ended since
            plan.missed = _is_missed(plan, found)
        return found

    def _queue(self, plan: Plan, found: Found | None) -> bool:
        """Have swept beside what is not tuned, or only predicted where it can be measured.

        Return False where it ought to be, and `plan` does not wait for it.
        """
        assert plan.subject is not None
        problem = plan.subject.problem
        if found is None or found.grade == "carried":
            why = "a call missed it"
        elif self._machine.on_gpu and found.provenance == "predicted":
            why = "a call is served by a prediction"
        elif found.grade == "bucket":
            why = "the model knows of something much better than what serves"
            self._background.look(Wanted(problem, self.job(plan, why, SHARE), [plan]))
            return True
        else:
            return True
        return self._background.sweep(Wanted(problem, self.job(plan, why, SHARE), [plan]))

    def _swept_for(self, subject: Subject, plan: Plan) -> Found | None:
        """Sweep now; None where nothing was found, or where another process is at it for too long."""
        problem, job = subject.problem, self.job(plan, "a call missed it")
        if subject in self.swept:
            self._background.join(Wanted(problem, job, [plan]))
            return None
        self.swept.add(subject)
        with WorkerPool() as pool:  # ended at once where a signal's handler raises below
            sweep = begun(
                lambda: self._tuner.tune(problem, job, wait=FLIGHT_SECONDS, pool=pool), "autoconv sweep"
            )
            error = sweep.exception()
        if error is None:
            found = sweep.result().found
            if found is None or found.grade in ("exact", "soft"):
                return found
            # Another process is at it, and its result may serve later.
            self._background.sweep(Wanted(problem, job, [plan]))
            return None
        if not isinstance(error, Cancelled):  # by the interpreter's exit
            # Processes, files, compilers: whatever a sweep fails of, a convolution must not fail.
            warn_once(f"the sweep of {problem} failed, torch serves: {outcome_of(error).reason}")
        return None


def _is_missed(plan: Plan, found: Found | None) -> bool:
    """Return whether calls of `plan` are of a problem that is to be tuned, where `found` is what is known."""
    if found is None or found.grade == "carried":
        return True
    return plan.missed and found.grade == "bucket"
