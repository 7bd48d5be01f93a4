"""Check given configs on a problem, outside a sweep."""

from __future__ import annotations

import os

from autoconv.config import Config
from autoconv.problem import Problem
from autoconv.sweep.pool import Pool
from autoconv.sweep.tasks import Reply, verify_task

SECONDS = 300.0  # for one config; the interpreter is slow


def check(problem: Problem, configs: list[Config], *, on_gpu: bool, ordinal: int = 0) -> list[Reply]:
    """Return the verdict on each config, as a dict of its fields, or `error` where it did not run.

    Args:
        problem: The problem; a large one is reduced.
        configs: Of kernels that run it.
        on_gpu: Whether to run them on a GPU, or else in the interpreter.
        ordinal: Of the GPU among this process's.
    """
    tasks = [verify_task(problem, config, on_gpu=on_gpu, ordinal=ordinal) for config in configs]
    workers = 1 if on_gpu else min(len(tasks), os.cpu_count() or 1)
    with Pool(workers, timeout=SECONDS, interpret=not on_gpu, fresh_after_error=on_gpu) as pool:
        replies = list(pool.perform(tasks))
    return [{"error": reply["unavailable"]} if "unavailable" in reply else reply for reply in replies]
