"""Check given configs on a problem, outside a sweep."""

from __future__ import annotations

import os

from autoconv.config import Config
from autoconv.problem import Problem
from autoconv.sweep.pool import Pool
from autoconv.sweep.tasks import Reply, verify_task

SECONDS = 300.0  # for one config; the interpreter is slow


def check(problem: Problem, configs: list[Config], *, on_gpu: bool) -> list[Reply]:
    """Return the verdict on each config, as a dict of its fields, or `error` where it did not run."""
    tasks = [verify_task(problem, config, on_gpu=on_gpu) for config in configs]
    workers = 1 if on_gpu else min(len(tasks), os.cpu_count() or 1)
    with Pool(workers, timeout=SECONDS, interpret=not on_gpu, fresh_after_error=on_gpu) as pool:
        return list(pool.perform(tasks))
