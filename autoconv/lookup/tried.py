"""What a sweep notes about its run, so that one that was interrupted can be gone on with."""

from __future__ import annotations

from typing import Any

from autoconv.kernels.registry import supporting
from autoconv.kernels.source import source_of
from autoconv.lookup.found import PredictorOf
from autoconv.problem import Problem


def tried(problem: Problem, predictor_of: PredictorOf, *, on_gpu: bool) -> dict[str, Any]:
    """Return what a sweep notes about its run: the sources that it tries, and how it tells them apart."""
    names = [kernel.name for kernel in supporting(problem)]
    return {
        "sources": {name: source_of(name) for name in names},
        "predictors": {name: predictor_of(name) for name in names},
        "measured": on_gpu,
    }
