"""Say what the GPU here is, and what it reaches: bandwidth of plain copies, rates of plain products.

python -m scripts.gpu.machine DIR
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autoconv import device as devices
from autoconv import gpu
from autoconv.environment import Environment
from autoconv.sweep.timing import time_callable

ASKED = (
    "name", "driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem", "ecc.mode.current",
    "compute_mode", "memory.total",
)  # fmt: skip
PACKAGES = ("torch", "triton", "numpy", "sqlite-utils")
SIDE = 8192  # of the matrices whose product is timed
MIBS = (64, 256, 1024, 4096)  # of the tensors that are copied
SECONDS = 0.4  # for the samples of one call


def main() -> None:
    """Measure, and write DIR/machine.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", metavar="DEVICE")
    given = parser.parse_args()
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }
    if given.rehearse:
        device = devices.find(given.rehearse)
        found |= {"rehearsal": True, "environment": asdict(Environment.current(device))}
    else:
        found |= described()
    text = json.dumps(found, indent=1)
    (given.out / "machine.json").write_text(text + "\n")
    print(text)


def described() -> dict[str, Any]:
    """Return what the device here is and reaches."""
    device = gpu.current(0)
    query = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True).stdout.split(",")
    environment = Environment.current(device, *gpu.driver_and_power(0)) if device else None
    return {
        "environment": environment and asdict(environment),
        "properties": str(torch.cuda.get_device_properties(0)),
        "nvidia_smi": dict(zip(ASKED, (one.strip() for one in told), strict=False)),
        "cudnn": torch.backends.cudnn.version(),
        "gbps": bandwidths(),
        "tflops": products(),
    }


def median_us(call: Callable[[], object]) -> float:
    """Return the median time of a call, in microseconds."""
    return statistics.median(time_callable(call, seconds=SECONDS))


def bandwidths() -> dict[str, float]:
    """Return GB/s (1e9 bytes a second), read and written together, of a copy, a fill and a sum."""
    found = {}
    for mib in MIBS:
        one, other = (torch.randn(mib << 18, device="cuda") for _ in range(2))
        calls: dict[str, tuple[int, Callable[[], object]]] = {
            "copy": (2, lambda one=one, other=other: other.copy_(one)),  # type: ignore[misc]
            "fill": (1, lambda one=one: one.fill_(1.0)),  # type: ignore[misc]
            "sum": (1, lambda other=other: other.sum()),  # type: ignore[misc]
        }
        for name, (passes, call) in calls.items():
            found[f"{name}, {mib} MiB"] = round(passes * one.nbytes / median_us(call) / 1e3, 1)
    return found


def products() -> dict[str, float]:
    """Return TFLOP/s of products of SIDE x SIDE matrices by torch."""
    return {
        "float32": product(torch.float32, tf32=False),
        "tf32": product(torch.float32, tf32=True),
        "float16": product(torch.float16),
        "bfloat16": product(torch.bfloat16),
    }


def product(dtype: torch.dtype, *, tf32: bool = True) -> float:
    """Return TFLOP/s of one product."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(2))
    return round(2 * SIDE**3 / median_us(lambda: a @ b) / 1e6, 1)


if __name__ == "__main__":
    main()
