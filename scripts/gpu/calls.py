"""What a call costs the host on the GPU here: autoconv's hit path against torch and a plain Triton launch.

    python scripts/gpu/calls.py DIR

Bursts of calls, too few to fill the launch queue, are timed on the host alone; medians of the bursts.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

import autoconv
from autoconv import Problem, gpu, serving, settings
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.machines import Cuda
from autoconv.kernels.registry import kernel
from autoconv.sweep.candidates import best_guess

PROBLEM = Problem(1, 32, 32, 3, 256, dilation=2)
BURST, BURSTS = 200, 60


def main() -> None:
    """Measure and write DIR/calls.json."""
    os.environ.setdefault("AUTOCONV_ON_MISS", "predict")
    x, w = torch.randn(PROBLEM.x_shape, device="cuda"), torch.randn(PROBLEM.w_shape, device="cuda")
    y = torch.empty(PROBLEM.y_shape, device="cuda")
    model = autoconv.ModelNew(PROBLEM.Cin, PROBLEM.Cout, PROBLEM.K, dilation=PROBLEM.dilation).cuda()
    module = torch.nn.Conv1d(
        PROBLEM.Cin, PROBLEM.Cout, PROBLEM.K, dilation=PROBLEM.dilation, bias=False
    ).cuda()
    config = best_guess(PROBLEM, gpu.current(0))[0]
    launch = kernel(config.kernel).launch
    calls: dict[str, Callable[[], object]] = {
        "autoconv.conv1d": lambda: autoconv.conv1d(x, w, dilation=2),
        "torch conv1d": lambda: functional.conv1d(x, w, dilation=2),
        "ModelNew": lambda: model(x),
        "torch.nn.Conv1d": lambda: module(x),
        "plain Triton launch, arguments worked out": lambda: launch(PROBLEM, config, x, w, None, y),
        "new_empty": lambda: x.new_empty(PROBLEM.y_shape),
    }
    with torch.no_grad(), serving.served_by(Dispatcher(Cuda(), settings.load())):
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(BURSTS):
            for name, call in calls.items():
                times[name].append(burst(call))
    found = {name: round(statistics.median(one), 3) for name, one in times.items()}
    print(json.dumps(found, indent=1))
    (Path(sys.argv[1]) / "calls.json").write_text(json.dumps({"host_us": found}, indent=1) + "\n")


def burst(call: Callable[[], object]) -> float:
    """Return microseconds of the host's for one call."""
    call()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(BURST):
        call()
    took = time.perf_counter() - begun
    torch.cuda.synchronize()
    return took / BURST * 1e6


if __name__ == "__main__":
    main()
