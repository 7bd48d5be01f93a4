"""Before the first task on a GPU: is it the one that is meant, and has it the memory?"""

from __future__ import annotations

import math

from autoconv import gpu
from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable, outcome_of
from autoconv.sweep.reduced import fits_gpu

_WORKSPACE = 64 << 20  # bytes that torch's convolution may ask for beside its tensors: a usual cuDNN limit


def open_device(ordinal: int, name: str) -> int:
    """Make this worker's context on the CUDA device `ordinal`; return the bytes free on it.

    Args:
        ordinal: As the parent process counts its devices, whose CUDA_VISIBLE_DEVICES this one inherits.
        name: Of the device that the results are to be recorded for.

    Raises:
        Unavailable: the device cannot be used, or is another one.
    """
    try:
        free = gpu.opened(ordinal)
        found = gpu.current(ordinal)
    except Exception as error:  # CUDA raises of every type; whatever it is, no candidate has run yet
        raise Unavailable(f"cuda:{ordinal} cannot be used: {outcome_of(error).reason}") from error
    if found is None or found.name != name:
        seen = "an unknown GPU" if found is None else found.name
        reason = f"cuda:{ordinal} is {seen} to a worker process, not {name}"
        raise Unavailable(f"{reason}; set CUDA_VISIBLE_DEVICES before the process starts")
    return free


def needed_bytes(problem: Problem, config: Config, device: Device) -> int:
    """Return the device memory, in bytes, that checking and timing `config` on `problem` take at most.

    Timing holds x, w and y, what overwrites the L2, and torch's own result with its workspace. A check holds
    in float64 x, w, their magnitudes or their differences, and the result five times over; a problem that is
    reduced first needs less than the largest that is not.
    """
    x, w, y = (math.prod(shape) for shape in (problem.x_shape, problem.w_shape, problem.y_shape))
    scratch = 0 if config == ATEN else 4 * kernel_called(config.kernel).workspace(problem, config)
    timed = problem.ideal_bytes + y * problem.dtype_bytes + gpu.flushed_bytes(device) + _WORKSPACE
    checked = problem.ideal_bytes + 8 * (2 * x + 2 * w + 5 * y) if fits_gpu(problem) else 0
    return max(timed, checked) + scratch


def shortage(needed: int, free: int, share: float = 1.0) -> str | None:
    """Say what is lacking, or None where `free` bytes, which are that share of what is free, are enough."""
    if needed <= free:
        return None
    asked = f"{needed / 2**30:.2f} GiB of the device's memory are needed"
    beside = "" if share == 1 else f", of which a sweep beside other work takes {share:.0%} at most"
    return f"{asked}, {free / share / 2**30:.2f} GiB are free{beside}"
