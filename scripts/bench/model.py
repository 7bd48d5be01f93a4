"""What the cost model says, and how fast it says it, as one JSON object with its environment.

    python scripts/bench/model.py

The row that Nsight Compute measured; three GPUs of one architecture on two public problems; the best and the
worst configs of the seed problem with their bounds; what more bandwidth and less L2 do; the time of an
estimate and of a prediction from compiled resources, in seconds of one core. For measured GEMM tiles see
calibration.py.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.predict import estimate, estimate_seconds, predict
from autoconv.device import Device, find
from autoconv.kernels.registry import supporting
from autoconv.problem import Problem

SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
ROWS = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
AS_BUILT = Resources(registers=184, spills=0, shared=16384)  # by Triton 3.3.1, as measured
MEASURED = {
    "warps_active_pct": 16.54, "dram_throughput_pct": 94.85, "l2_hit_pct": 58.73, "sm_throughput_pct": 23.15,
    "milliseconds": 10.532,  # less the fill of y that its benchmark timed besides, see docs/cost_model.md
}  # fmt: skip
PUBLIC = {
    "KernelBench 67": Problem(32, 64, 128, 3, 131072),
    "KernelBench 76": Problem(64, 64, 128, 3, 524280, stride=3, dilation=4),
}
DEVICES = ("l4", "l40s", "rtx4090")


def configs_of(problem: Problem, device: Device) -> list[Config]:
    """Return the whole space of every kernel that can run `problem`."""
    return [config for kernel in supporting(problem) for config in kernel.space(problem, device)]


def seed_row() -> dict[str, Any]:
    """Return the measured row beside the predicted one."""
    found = predict(SEED, ROWS, find("rtx4090"), AS_BUILT).to_json(ROWS)
    names = [name for name in MEASURED if name != "milliseconds"]
    predicted = {name: found[name] for name in names} | {"milliseconds": round(found["predicted_ms"], 3)}
    return {"grid": found["blocks"], "measured": MEASURED, "predicted": predicted}


def devices() -> dict[str, Any]:
    """Return the best estimate for each public problem on GPUs of one architecture."""
    table: dict[str, Any] = {}
    for title, problem in PUBLIC.items():
        for name in DEVICES:
            device = find(name)
            configs = configs_of(problem, device)
            seconds = estimate_seconds(problem, configs, device)
            best = configs[int(seconds.argmin())]
            found = estimate(problem, best, device)
            table.setdefault(title, {})[name] = {
                "predicted_ms": round(found.seconds * 1e3, 3),
                "floor_ms": round(found.floor_seconds * 1e3, 3),
                "bound": found.bound,
                "config": str(best),
            }
    return table


def sensitivity() -> dict[str, Any]:
    """Return the best and worst configs of the seed problem, and what other devices make of the best."""
    device = find("rtx4090")
    configs = configs_of(SEED, device)
    order = estimate_seconds(SEED, configs, device).argsort(kind="stable")

    def described(number: int) -> dict[str, Any]:
        found = estimate(SEED, configs[number], device)
        bounds = f"{found.bound}, {found.runner_up}"
        return {"config": str(configs[number]), "ms": round(found.seconds * 1e3, 3), "bounds": bounds}

    best = configs[int(order[0])]
    others = {
        "twice the bandwidth": replace(device, dram_gbps=2 * device.dram_gbps),
        "half the L2": replace(device, l2_bytes=device.l2_bytes // 2),
        "twice the tensor rate": replace(
            device, tensor_tflops={name: 2 * rate for name, rate in device.tensor_tflops.items()}
        ),
    }
    return {
        "best": [described(int(number)) for number in order[:10]],
        "worst": [described(int(number)) for number in order[-10:]],
        "best_ms_with": {
            name: round(estimate(SEED, best, other).seconds * 1e3, 3) for name, other in others.items()
        },
    }


def speed() -> dict[str, Any]:
    """Return how fast the model answers, on one core, the import of Triton left out."""
    device = find("rtx4090")
    configs = configs_of(SEED, device)
    fresh = replace(SEED, L=SEED.L + 48)  # whose addresses were not sampled yet
    began = time.process_time()
    estimate_seconds(fresh, configs, device)
    first = time.process_time() - began
    began = time.process_time()
    estimate_seconds(fresh, configs, device)
    again = time.process_time() - began
    began = time.process_time()
    for config in configs[:50]:
        predict(SEED, config, device, AS_BUILT)
    return {
        "configs": len(configs),
        "estimates_per_second_first_time": round(len(configs) / first),
        "estimates_per_second_again": round(len(configs) / again),
        "milliseconds_of_a_prediction": round((time.process_time() - began) / 50 * 1e3, 3),
    }


def main() -> None:
    """Print one JSON object."""
    environment = {name: version(name) for name in ("triton", "torch", "numpy")}
    environment |= {"python": platform.python_version(), "machine": platform.machine()}
    print(
        json.dumps(
            {
                "environment": environment,
                "seed_row": seed_row(),
                "devices": devices(),
                "sensitivity": sensitivity(),
                "speed": speed(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
