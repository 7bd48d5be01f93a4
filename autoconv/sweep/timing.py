"""Time candidates on the GPU, in turn; runs in a worker process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from operator import itemgetter

import torch

from autoconv import gpu
from autoconv.config import Config
from autoconv.kernels.aten import ATEN, activations, convolution
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem

LEAST_SAMPLES = 5
MOST_SAMPLES = 100
GRAPHED = 20  # calls in a captured graph: of the shortest some 50 us, a hundred times an event's resolution

Tensors = tuple[torch.Tensor, torch.Tensor, "torch.Tensor | None"]


def time_in_turn(
    problem: Problem, configs: Sequence[Config], *, where: str, seconds: float, graph: bool = False
) -> list[list[float]]:
    """Return laps: in each a sample, in microseconds, of every config on the problem's full size.

    They are those of `time_callables`. The inputs are normal deviates: zeros would switch fewer wires, and a
    GPU at its power limit would clock higher than it ever does on data.

    Args:
        problem: The problem.
        configs: Of kernels that run it; ATEN among them is torch's own convolution, with the faster of
            cuDNN's two ways to choose an algorithm.
        where: The device, such as "cuda:1"; it must be the current one.
        seconds: How long the laps may take together, flushing of the L2 included.
        graph: Whether calls are timed as a captured graph replays them, by GRAPHED; for those so short that
            an event's resolution and the gaps between launches count. The L2 is cold for the first alone.
    """
    tensors = _inputs(problem, where)
    calls = [_call(problem, config, tensors) for config in configs]
    return time_callables(calls, seconds=seconds, graph=GRAPHED if graph else 0)


def time_callables(
    calls: Sequence[Callable[[], object]], *, seconds: float, graph: int = 0
) -> list[list[float]]:
    """Return laps: in each the time of every call, in microseconds, as `autoconv.gpu.sampler` takes it.

    Every other lap goes the other way round, so that none is always timed after the same one. There are
    LEAST_SAMPLES laps at least and MOST_SAMPLES at most, for `seconds` together, flushing included.
    """
    flush = gpu.flush_buffer()
    samplers = [gpu.sampler(call, flush, graph=graph) for call in calls]
    laps: list[list[float]] = []
    end = time.monotonic() + seconds
    while len(laps) < LEAST_SAMPLES or (len(laps) < MOST_SAMPLES and time.monotonic() < end):
        turn = -1 if len(laps) % 2 else 1
        laps.append([sample() for sample in samplers[::turn]][::turn])
    return laps


def time_callable(call: Callable[[], object], *, seconds: float) -> list[float]:
    """Return the times of single calls, in microseconds, each with a cold L2; see `time_callables`."""
    return [us for (us,) in time_callables([call], seconds=seconds)]


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
    return time_callable(_torch_call(problem, _inputs(problem, where), benchmark), seconds=seconds)


def _call(problem: Problem, config: Config, tensors: Tensors) -> Callable[[], object]:
    if config == ATEN:
        return _fastest_of_torch(problem, tensors)
    kernel, y = kernel_called(config.kernel), tensors[0].new_empty(problem.y_shape)
    return lambda: kernel.launch(problem, config, *tensors, y)


def _fastest_of_torch(problem: Problem, tensors: Tensors) -> Callable[[], object]:
    ways = [_torch_call(problem, tensors, benchmark) for benchmark in (False, True)]
    times = zip(*time_callables(ways, seconds=0.0), strict=True)
    return min(zip(map(statistics.median, times), ways, strict=True), key=itemgetter(0))[1]


def _torch_call(problem: Problem, tensors: Tensors, benchmark: bool) -> Callable[[], torch.Tensor]:
    activate, tf32 = activations()[problem.activation], problem.precision == "tf32"

    def call() -> torch.Tensor:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=benchmark, deterministic=False, allow_tf32=tf32
        ):
            return activate(convolution(problem, *tensors))

    return call


def _inputs(problem: Problem, where: str) -> Tensors:
    dtype = getattr(torch, problem.dtype)
    x = torch.randn(problem.x_shape, dtype=dtype, device=where)
    if problem.layout == "nlc":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    w = torch.randn(problem.w_shape, dtype=dtype, device=where)
    return x, w, torch.randn(problem.Cout, dtype=dtype, device=where) if problem.bias else None
