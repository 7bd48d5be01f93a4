"""Check given configs on a problem, outside a sweep."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autoconv.config import Config
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Outcome
from autoconv.sweep.pool import Workers
from autoconv.sweep.tasks import Verify

if TYPE_CHECKING:
    from autoconv.sweep.verify import Verdict

SECONDS = 300.0  # for one config; the interpreter is slow


def check(
    problem: Problem, configs: list[Config], *, on_gpu: bool, ordinal: int = 0
) -> list[Verdict | Outcome]:
    """Return the verdict on each config, or why it did not run.

    Args:
        problem: The problem; a large one is reduced.
        configs: Of kernels that run it.
        on_gpu: Whether to run them on a GPU, or else in the interpreter.
        ordinal: Of the GPU among this process's.

    Raises:
        Unavailable: the machine is at fault, not the configs.
    """
    tasks = [Verify.fresh(problem, config, on_gpu=on_gpu, ordinal=ordinal) for config in configs]
    count = 1 if on_gpu else min(len(tasks), os.cpu_count() or 1)
    with Workers(count, limit=SECONDS, interpret=not on_gpu, fresh_after_failure=on_gpu) as workers:
        return list(workers.perform(tasks))
