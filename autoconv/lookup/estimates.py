"""The estimated time of what was found and has none of its own: of a near size, or of another device."""

from __future__ import annotations

from dataclasses import replace

from autoconv.device import Device
from autoconv.kernels.aten import ATEN
from autoconv.lookup.found import Found
from autoconv.problem import Problem


def estimated(found: Found, problem: Problem, device: Device) -> Found:
    """Return `found` with its estimated time for `problem` where it has no time of its own."""
    if found.config == ATEN or found.has_time:
        return found
    # Not above: the command line loads this package, and a hit at its own size does without the model.
    from autoconv.cost.predict import estimate

    return replace(found, predicted_us=estimate(problem, found.config, device).seconds * 1e6)
