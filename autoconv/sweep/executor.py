"""Where sweeps run: in this process's own workers, or elsewhere. Who asks for a sweep need not know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autoconv.config import Config
from autoconv.problem import Problem
from autoconv.sweep.ledger import Ledger
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.revalidation import NOTHING_BEFORE, Before
from autoconv.sweep.sweep import Job, Progress, Swept, sweep


@dataclass(frozen=True)
class Request:
    """One problem to sweep; see `sweep` for what the fields mean."""

    problem: Problem
    job: Job
    priors: Sequence[Config] = ()
    again: bool = False
    old: Before = NOTHING_BEFORE


class Executor(Protocol):
    """Runs sweeps, several at once if asked from several threads."""

    @property
    def lanes(self) -> int:
        """How many sweeps it runs at once."""

    @property
    def devices(self) -> Collection[str]:
        """Names of the GPUs that it times on whatever this process has."""

    def sweep(self, request: Request, database: Ledger | None, progress: Progress) -> Swept:
        """Sweep, with every trial recorded in `database`, by this process, as it ends.

        Raises:
            Cancelled: the executor was closed meanwhile.
            ProblemError: no kernel runs this problem.
            GivenUp: the machines that it was given to were lost.
            Unavailable: no machine is left that could do it.
        """


Sweep = Callable[..., Swept]  # as `sweep` is called


@dataclass(frozen=True)
class Local:
    """Sweeps with the workers of a pool, one at a time."""

    pool: WorkerPool
    lanes: int = 1
    devices: Collection[str] = ()  # the jobs say where they run

    def sweep(self, request: Request, database: Ledger | None, progress: Progress) -> Swept:
        """Sweep here."""
        return requested(request, database, self.pool, progress, sweep)


def requested(
    request: Request, database: Ledger | None, pool: WorkerPool, progress: Progress, sweeper: Sweep
) -> Swept:
    """Do what is requested in this process, by `sweeper`."""
    how: dict[str, Any] = {"again": request.again, "old": request.old}
    return sweeper(request.problem, request.job, database, pool, progress, request.priors, **how)
