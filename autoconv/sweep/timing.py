"""Time one candidate on the GPU; runs in a worker process."""

from __future__ import annotations

import torch

from autoconv import gpu
from autoconv.config import Config
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem


def time_candidate(problem: Problem, config: Config, *, seconds: float) -> list[float]:
    """Return samples, in microseconds, of launches of `config` on the problem's full size.

    Values do not matter to the time, so the inputs are zeros; the L2 is flushed before each sample.
    """
    dtype = getattr(torch, problem.dtype)
    x = torch.zeros(problem.x_shape, dtype=dtype, device="cuda")
    if problem.layout == "nlc":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    w = torch.zeros(problem.w_shape, dtype=dtype, device="cuda")
    bias = torch.zeros(problem.Cout, dtype=dtype, device="cuda") if problem.bias else None
    y = torch.empty(problem.y_shape, dtype=dtype, device="cuda")
    kernel = kernel_called(config.kernel)
    return gpu.time_callable(lambda: kernel.launch(problem, config, x, w, bias, y), seconds=seconds)
