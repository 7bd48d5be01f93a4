"""What a call costs the host on the GPU here: a hit of autoconv against torch and a launch by Triton's JIT.

    python -m scripts.gpu.calls DIR

Bursts of calls, too few to fill the queue of launches, timed on the host alone; medians of the bursts, which
take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    os.environ["AUTOCONV_ON_MISS"] = "predict"  # a plan of ours from the first call on
    with torch.no_grad(), serving.served_by(Dispatcher(Cuda(), settings.load())):
        calls = variants()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(BURSTS):
            for name, call in calls.items():
                times[name].append(burst(call))
    found = {name: round(statistics.median(one), 2) for name, one in times.items()}
    text = json.dumps({"problem": str(PROBLEM), "host_us": found}, indent=1)
    print(text)
    (out / "calls.json").write_text(text + "\n")


def variants() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    device = gpu.current(0)
    assert device is not None
    x, w, y = (
        torch.randn(shape, device="cuda") for shape in (PROBLEM.x_shape, PROBLEM.w_shape, PROBLEM.y_shape)
    )
    channels, dilation = (PROBLEM.Cin, PROBLEM.Cout, PROBLEM.K), PROBLEM.dilation
    ours, torchs = (
        autoconv.ModelNew(*channels, dilation=dilation).cuda(),
        nn.Conv1d(*channels, dilation=dilation, bias=False).cuda(),
    )
    config, _ = best_guess(PROBLEM, device)
    launch = kernel(config.kernel).launch
    return {
        "autoconv.conv1d": lambda: autoconv.conv1d(x, w, dilation=dilation),
        "torch's conv1d": lambda: functional.conv1d(x, w, dilation=dilation),
        "ModelNew": lambda: ours(x),
        "torch's Conv1d": lambda: torchs(x),
        "a launch through Triton's JIT": lambda: launch(PROBLEM, config, x, w, None, y),
        "new_empty": lambda: x.new_empty(PROBLEM.y_shape),
    }


def burst(call: Callable[[], object]) -> float:
    """Return the host's microseconds for one call."""
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
