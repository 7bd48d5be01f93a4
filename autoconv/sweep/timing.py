"""Time one candidate on the GPU; runs in a worker process."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch

from autoconv import gpu
from autoconv.config import Config
from autoconv.kernels.aten import ATEN, activations, convolution
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem


def time_candidate(problem: Problem, config: Config, *, where: str, seconds: float) -> list[float]:
    """Return samples, in microseconds, of calls of `config` on the problem's full size.

    The L2 is flushed before each sample. The inputs are normal deviates: zeros would switch fewer wires, and
    a GPU at its power limit would clock higher than it ever does on data.

    Args:
        problem: The problem.
        config: Of one of the kernels; or ATEN, whose samples are those of the faster of cuDNN's two ways to
            choose an algorithm.
        where: The device, such as "cuda:1"; it must be the current one.
        seconds: How long the samples may take together.
    """
    if config == ATEN:
        ways = (time_torch(problem, where=where, seconds=seconds / 2, benchmark=on) for on in (False, True))
        return min(ways, key=statistics.median)
    (call,) = _ways(problem, config, *_inputs(problem, where))
    return gpu.time_callable(call, seconds=seconds)


def time_beside(
    problem: Problem, config: Config, against: Config, where: str, seconds: float
) -> tuple[tuple[float, float], ...]:
    """Return samples, in microseconds, of calls of `config` and of `against`, in pairs.

    The two are called in turn, so that what else goes on on the device slows both alike. Otherwise it is as
    for `time_candidate`, whose arguments these are.
    """
    inputs = _inputs(problem, where)
    own, other = _ways(problem, config, *inputs), _ways(problem, against, *inputs)
    columns = list(zip(*gpu.time_alternately([*own, *other], seconds=seconds), strict=True))
    fastest = min(columns[: len(own)], key=statistics.median)
    return tuple(zip(fastest, min(columns[len(own) :], key=statistics.median), strict=True))


def time_torch(problem: Problem, *, where: str, seconds: float, benchmark: bool) -> list[float]:
    """Return samples, in microseconds, of torch's own convolution and activation.

    torch may be as fast as it can with the problem's precision: TF32 where the problem has it, and algorithms
    whose result differs from run to run.

    Args:
        problem: The problem.
        where: The device, such as "cuda:1"; it must be the current one.
        seconds: How long the samples may take together.
        benchmark: Whether cuDNN times its algorithms first.
    """
    with _flags(problem, benchmark):
        return gpu.time_callable(_by_torch(problem, *_inputs(problem, where)), seconds=seconds)


def _ways(
    problem: Problem, config: Config, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None
) -> list[Callable[[], object]]:
    """Return the calls to time, of which the fastest counts: torch has two ways to choose its algorithm."""
    if config != ATEN:
        y = x.new_empty(problem.y_shape)
        return [partial(kernel_called(config.kernel).launch, problem, config, x, w, bias, y)]
    by_torch = _by_torch(problem, x, w, bias)

    def with_flags(benchmark: bool) -> torch.Tensor:
        with _flags(problem, benchmark):
            return by_torch()

    return [partial(with_flags, benchmark) for benchmark in (False, True)]


def _by_torch(
    problem: Problem, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None
) -> Callable[[], torch.Tensor]:
    activate = activations()[problem.activation]
    return lambda: activate(convolution(problem, x, w, bias))


def _flags(problem: Problem, benchmark: bool) -> AbstractContextManager[None]:
    tf32 = problem.precision == "tf32"
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=tf32
    )
    return flags


def _inputs(problem: Problem, where: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    dtype = getattr(torch, problem.dtype)
    x = torch.randn(problem.x_shape, dtype=dtype, device=where)
    if problem.layout == "nlc":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    w = torch.randn(problem.w_shape, dtype=dtype, device=where)
    return x, w, torch.randn(problem.Cout, dtype=dtype, device=where) if problem.bias else None
