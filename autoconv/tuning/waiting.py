"""What waits for the background's tuner: problems to sweep and configs to compile, with their plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from autoconv.compiler.specialisation import Form, is_compiled, specialisation
from autoconv.cost.prediction import floor_seconds
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.lookup import Found
from autoconv.lookup.buckets import module_shape
from autoconv.problem import Problem
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Specialise

Key: TypeAlias = tuple[Problem, Environment]


MOST_WAITING = 64
"""Plans that wait for one problem, each of another form; of more, the oldest are evicted as like as not."""


class Plan(Protocol):
    """What waits for a result."""

    missed: bool  # whether its calls are of a problem that is to be tuned
    form: Form

    @property
    def total(self) -> int:
        """Return how often it was called."""


P = TypeVar("P", bound=Plan)


@dataclass(eq=False)
class Wanted(Generic[P]):
    """A problem that plans wait for."""

    problem: Problem
    job: Job
    plans: list[P]
    exactly: bool = False  # another size's entry does not do
    tries: int = 0  # how often its sweep was begun

    def join(self, plans: Sequence[P]) -> None:
        """Have these wait too, each once, and the newest MOST_WAITING in all."""
        self.plans = [*(one for one in self.plans if one not in plans), *plans][-MOST_WAITING:]

    @property
    def key(self) -> Key:
        """What names it in the queue."""
        return self.problem, self.job.environment

    @property
    def shape(self) -> tuple[object, ...]:
        """The module shape: a swept size may serve all of it that lies near."""
        return module_shape(self.problem)

    @property
    def worth(self) -> float:
        """The least time that its calls can have taken, seconds.

        By the roofline: estimates of every config take half a second, and only an order is wanted here.
        """
        return floor_seconds(self.problem, self.job.device) * sum(plan.total for plan in self.plans)


@dataclass(frozen=True, eq=False)
class Uncompiled(Generic[P]):
    """A config that is known for plans of one form, and not compiled yet."""

    name: str  # of the specialisation
    task: Specialise
    job: Job
    plans: tuple[P, ...]
    tries: int = 0  # that brought no answer


def uncompiled_for(found: Found, problem: Problem, job: Job, plan: P) -> Uncompiled[P] | None:
    """Return what has to be compiled before `plan` may load `found`; None where nothing has."""
    if found.config == ATEN:
        return None
    name = specialisation(problem, found.config, job.device, plan.form)
    if is_compiled(job.cache, name):
        return None
    task = Specialise(problem, found.config, job.device, job.cache, plan.form)
    return Uncompiled(name, task, job, (plan,))
