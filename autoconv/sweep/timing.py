"""Time one candidate on the GPU; runs in a worker process."""

from __future__ import annotations

import torch

from autoconv import gpu
from autoconv.config import Config
from autoconv.kernels.aten import ATEN, convolution
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem


def time_candidate(problem: Problem, config: Config, *, seconds: float) -> list[float]:
    """Return samples, in microseconds, of launches of `config` on the problem's full size.

    The L2 is flushed before each sample. The inputs are normal deviates: zeros would switch fewer wires, and
    a GPU at its power limit would clock higher than it ever does on data.
    """
    x, w, bias, y = _tensors(problem)
    if config == ATEN:
        return min(
            (_time_aten(problem, x, w, bias, seconds / 2, choose) for choose in (False, True)), key=_median
        )
    kernel = kernel_called(config.kernel)
    return gpu.time_callable(lambda: kernel.launch(problem, config, x, w, bias, y), seconds=seconds)


def _time_aten(
    problem: Problem,
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    seconds: float,
    choose: bool,
) -> list[float]:
    """Time torch's convolution, with the problem's precision; `choose`: cuDNN times its algorithms first."""
    tf32 = problem.precision == "tf32"
    with torch.backends.cudnn.flags(enabled=True, benchmark=choose, deterministic=False, allow_tf32=tf32):
        return gpu.time_callable(lambda: convolution(problem, x, w, bias), seconds=seconds)


def _median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


def _tensors(problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    dtype = getattr(torch, problem.dtype)
    x = torch.randn(problem.x_shape, dtype=dtype, device="cuda")
    if problem.layout == "nlc":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    w = torch.randn(problem.w_shape, dtype=dtype, device="cuda")
    bias = torch.randn(problem.Cout, dtype=dtype, device="cuda") if problem.bias else None
    return x, w, bias, torch.empty(problem.y_shape, dtype=dtype, device="cuda")
