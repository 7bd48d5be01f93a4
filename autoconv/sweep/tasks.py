"""The tasks that a parent sends to its workers, as JSON; `worker` does them."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, TypeAlias

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem
from autoconv.sweep.reduced import reduced

Task: TypeAlias = dict[str, Any]
Reply: TypeAlias = dict[str, Any]
"""What the task returns; or "error" and perhaps "outcome", of a candidate that failed; or "unavailable", why
the machine could not do it (see `outcomes`); or "skipped"."""

INTERPRETED_STEPS = 200  # main-loop steps that the interpreter does in a second or two
GPU_ELEMENTS = 1 << 26  # of x and y together, whose float64 reference a GPU computes in a moment


def load_task(what: str) -> Task:
    """Import what tasks of the kind `what` need, such as "compile"; a clock need not run for that."""
    return {"do": "load", "what": what}


def open_task(device: Device, *, ordinal: int) -> Task:
    """Make the worker's context on the GPU at `ordinal`, to be `device`; the reply holds `free_bytes`."""
    return {"do": "open", "ordinal": ordinal, "device": device.name}


def compile_task(problem: Problem, config: Config, device: Device, cache: Path) -> Task:
    """Compile `config` for `device`; the reply is its Resources, kept in the folder `cache`."""
    return {**_task("compile", problem, config), "device": device.to_json(), "cache": str(cache)}


def verify_task(problem: Problem, config: Config, *, on_gpu: bool, ordinal: int = 0) -> Task:
    """Check `config` on fresh inputs; the reply is a Verdict. A large problem is reduced first."""
    small = problem if _is_small(problem, config, on_gpu=on_gpu) else reduced(problem, config)
    where = device_name(ordinal) if on_gpu else "cpu"
    return {**_task("verify", small, config), "where": where, "seed": secrets.randbits(31)}


def time_task(problem: Problem, config: Config, seconds: float, *, ordinal: int = 0) -> Task:
    """Time `config` for about `seconds`; the reply holds `samples_us`."""
    return {**_task("time", problem, config), "where": device_name(ordinal), "seconds": seconds}


def device_name(ordinal: int) -> str:
    """Return what torch calls the CUDA device at `ordinal`."""
    return f"cuda:{ordinal}"


def fits_gpu(problem: Problem) -> bool:
    """Return whether a GPU checks `problem` as it is, not reduced."""
    return problem.ideal_bytes // problem.dtype_bytes <= GPU_ELEMENTS


def _task(do: str, problem: Problem, config: Config) -> Task:
    return {"do": do, "problem": str(problem), "config": config.document()}


def _is_small(problem: Problem, config: Config, *, on_gpu: bool) -> bool:
    if on_gpu:
        return fits_gpu(problem)
    work = kernel_called(config.kernel).work(problem, config)
    return work.blocks * work.steps <= INTERPRETED_STEPS
