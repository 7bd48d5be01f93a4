"""What a call costs before the kernel runs: a hit of autoconv against plain Triton and triton.autotune.

All of them launch the same kernel with the same config on the same driver, which stands in for a GPU and
drops the launch; all allocate their output. They take turns, and the thread's own CPU time is counted, so
that a noisy machine disturbs them little and alike; the ratios of their medians say more than the
microseconds. Prints one JSON object.

    python scripts/bench/dispatch.py [rounds]
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import torch
import triton

from autoconv import Problem, device, ops, serving, settings
from autoconv.compiler.recording import recording
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.machines import Recorded
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.modules import ModelNew

DEVICE = "rtx4090"
PROBLEM = Problem(2, 32, 32, 3, 128, dilation=2)  # small, so that allocating its output is not what is timed
Y_SHAPE = PROBLEM.y_shape
ROUNDS = 200
CALLS = 200  # of each, in one round

Variant = Callable[[], object]


def main() -> None:
    """Measure every variant in turn, and print medians, ratios and shares."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with ExitStack() as stack:
        medians = measured(variants(stack), rounds)
    hit = medians["conv1d"]
    print(
        json.dumps(
            {
                "benchmark": "dispatch",
                "problem": str(PROBLEM),
                "environment": environment(),
                "rounds": rounds,
                "calls_a_round": CALLS,
                "median_us": {name: round(us, 3) for name, us in medians.items()},
                "ratio_to_hit": {name: round(us / hit, 2) for name, us in medians.items()},
                "share_of_hit_pct": {
                    "checks in conv1d": round(100 * (hit - medians["plan"] - medians["launch"]) / hit),
                    "key and look-up of the plan": round(100 * medians["plan"] / hit),
                    "output allocation": round(100 * medians["new_empty"] / hit),
                    "launch, without the driver": round(
                        100 * (medians["launch"] - medians["new_empty"]) / hit
                    ),
                },
            }
        )
    )


def variants(stack: ExitStack) -> dict[str, Variant]:
    """Return what to measure, by name; what they need lives as long as `stack`."""
    x, weight = torch.zeros(PROBLEM.x_shape), torch.zeros(PROBLEM.w_shape)
    model = ModelNew(PROBLEM.Cin, PROBLEM.Cout, PROBLEM.K, stride=PROBLEM.stride, dilation=PROBLEM.dilation)
    dispatcher = stack.enter_context(swallowing())
    numbers = (PROBLEM.stride, 0, PROBLEM.dilation, 1)
    launch = dispatcher.plan(x, weight, None, *numbers).launch
    plain, autotuned = by_triton(x, weight)
    return {
        "torch.empty": lambda: torch.empty(Y_SHAPE, dtype=torch.float32, device=x.device),
        "new_empty": lambda: x.new_empty(Y_SHAPE),
        "launch": lambda: launch(x, weight, None),
        "plan": lambda: dispatcher.plan(x, weight, None, *numbers),
        "conv1d": lambda: ops.conv1d(x, weight, None, *numbers),
        "ModelNew": lambda: model(x),
        "kernel[grid]": plain,
        "triton.autotune": autotuned,
    }


def by_triton(x: torch.Tensor, weight: torch.Tensor) -> tuple[Variant, Variant]:
    """Return a plain launch and an autotuned one, arguments and grid made ready beforehand."""
    kernel = kernel_called("dense")
    config = next(kernel.space(PROBLEM, device.find(DEVICE)))
    keywords, grid = kernel.keywords(PROBLEM, config), kernel.grid(PROBLEM)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    choices = [triton.Config(config.meta, **{**options, "num_stages": stages}) for stages in (2, 3)]
    tuner = triton.autotune(choices, key=["L_units", "L_out_units"], do_bench=same_time)
    autotuned = tuner(kernel.jit)
    untuned = {name: value for name, value in keywords.items() if name not in config.to_json()}

    def plain() -> torch.Tensor:
        y = x.new_empty(Y_SHAPE)
        kernel.jit[grid](x, weight, None, y, **keywords)
        return y

    def hit() -> torch.Tensor:
        y = x.new_empty(Y_SHAPE)
        autotuned[grid](x, weight, None, y, **untuned)
        return y

    return plain, hit


@contextmanager
def swallowing() -> Iterator[Dispatcher]:
    """Yield a dispatcher in force on a driver that drops launches, with a database and a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "AUTOCONV_DB": f"{folder}/tuning.db",
            "AUTOCONV_CACHE": f"{folder}/cache",
            "AUTOCONV_ON_MISS": "predict",
        }
        dispatcher = Dispatcher(Recorded(device.find(DEVICE)), settings.load())
        with torch.no_grad(), recording(device.find(DEVICE)) as driver, serving.served_by(dispatcher):
            setattr(driver, "launcher_cls", lambda _source, _metadata: swallow)  # noqa: B010 - shadows a method
            yield dispatcher
            dispatcher.wait(0)  # it writes what it missed, while the folder is there


def swallow(*_arguments: Any) -> None:
    """Launch nothing."""


def same_time(_call: Variant, quantiles: Sequence[float]) -> list[float]:
    """Time no candidate, where nothing runs: the first one wins."""
    return [1.0 for _ in quantiles]


def measured(variants: dict[str, Variant], rounds: int) -> dict[str, float]:
    """Return the median over the rounds of one call of each variant, in microseconds."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            call()  # the caches of the processor are another variant's
            begun = time.thread_time_ns()
            for _ in range(CALLS):
                call()
            samples[name].append((time.thread_time_ns() - begun) / CALLS / 1e3)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def environment() -> dict[str, object]:
    """Return what the figures depend on beside the code."""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "triton": version("triton"),
        "machine": platform.machine(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "stands_in_for": DEVICE,
    }


def processor() -> str:
    """Return the processor's model, as Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - not a file of ours
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
