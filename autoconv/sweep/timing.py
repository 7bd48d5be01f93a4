"""Time one candidate on the GPU; runs in a worker process."""

from __future__ import annotations

import statistics

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
    x, w, bias = _inputs(problem, where)
    kernel = kernel_called(config.kernel)
    y = x.new_empty(problem.y_shape)
    return gpu.time_callable(lambda: kernel.launch(problem, config, x, w, bias, y), seconds=seconds)


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
    x, w, bias = _inputs(problem, where)
    activate = activations()[problem.activation]
    tf32 = problem.precision == "tf32"
    with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=tf32):
        return gpu.time_callable(lambda: activate(convolution(problem, x, w, bias)), seconds=seconds)


def _inputs(problem: Problem, where: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    dtype = getattr(torch, problem.dtype)
    x = torch.randn(problem.x_shape, dtype=dtype, device=where)
    if problem.layout == "nlc":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    w = torch.randn(problem.w_shape, dtype=dtype, device=where)
    return x, w, torch.randn(problem.Cout, dtype=dtype, device=where) if problem.bias else None
