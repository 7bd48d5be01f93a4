"""What a sweep notes about its run: what it tried, so that it can be gone on with, and told from today's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autoconv.environment import Environment
from autoconv.kernels.registry import supporting
from autoconv.kernels.source import source_of
from autoconv.lookup.found import PredictorOf, hard_fits, same_device
from autoconv.problem import Problem
from tuning_db import RunRecord


def tried(
    problem: Problem, predictor_of: PredictorOf, *, on_gpu: bool, contended: bool = False
) -> dict[str, Any]:
    """Return what a sweep notes about its run: the sources that it tries, and how it tells them apart."""
    names = [kernel.name for kernel in supporting(problem)]
    return {
        "sources": {name: source_of(name) for name in names},
        "predictors": {name: predictor_of(name) for name in names},
        "measured": on_gpu,
        "contended": contended,
    }


def outdated(runs: Iterable[RunRecord], problem: Problem, environment: Environment, *, on_gpu: bool) -> bool:
    """Return whether all sweeps among `runs` that would content one now tried other kernels than today's.

    A kernel is new, or its source has changed: it costs its own trials, and its rivals' results stay.
    What was recorded otherwise, or for another environment, says nothing of kernels.
    """
    sources = {kernel.name: source_of(kernel.name) for kernel in supporting(problem)}
    noted = [
        run.info["sources"]
        for run in runs
        if "sources" in run.info
        and run.info.get("measured") in (True, on_gpu)
        and not (on_gpu and run.info.get("contended"))
        and hard_fits(run.environment, environment)
        and same_device(run.environment, environment)
    ]
    return bool(noted) and sources not in noted
