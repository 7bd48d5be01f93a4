"""The 1-D convolutions of published models, for which the packaged database is tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tuning_db
from autoconv.errors import FieldError, suggestion
from autoconv.problem import Problem

MODELS = Path(tuning_db.__file__).parent / "prebuilt" / "models.json"
"""By model: "sources", where its layers were read, and "calls" of each problem in one pass."""


def names() -> list[str]:
    """Return what the models are called, sorted."""
    return sorted(_models())


def problems_of(model: str) -> dict[Problem, int]:
    """Return the problems of a model, at batch sizes and lengths of typical use, with their calls in a pass.

    Raises:
        FieldError: no model of that name is listed.
    """
    models = _models()
    if model not in models:
        remedy = "capture the model's own convolutions with autoconv.capture()"
        raise FieldError("report", "model", model, f"is not listed{suggestion(model, models)}", remedy)
    return {Problem.parse(text): count for text, count in models[model]["calls"].items()}


def _models() -> dict[str, dict[str, Any]]:
    models: dict[str, dict[str, Any]] = json.loads(MODELS.read_text(encoding="utf-8"))
    return models
