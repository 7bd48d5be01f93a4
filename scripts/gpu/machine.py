"""Say what the GPU here is, and what it reaches: bandwidth of a plain copy, rates of plain products.

python scripts/gpu/machine.py DIR
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from autoconv import gpu
from autoconv.environment import Environment

QUERY = "name,driver_version,power.limit,clocks.max.sm,clocks.max.mem,clocks.sm,clocks.mem,compute_mode,ecc.mode.current,memory.total"
SIDE = 8192  # of the matrices whose product is timed


def main() -> None:
    """Measure, and write DIR/machine.json."""
    properties = torch.cuda.get_device_properties(0)
    device = gpu.current(0)
    smi = subprocess.run(
        ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True
    )
    found = {
        "device": None if device is None else device.name,
        "properties": str(properties),
        "nvidia_smi": dict(
            zip(QUERY.split(","), [one.strip() for one in smi.stdout.split(",")], strict=False)
        ),
        "environment": None
        if device is None
        else asdict(Environment.current(device, *gpu.driver_and_power(0))),
        "versions": {name: version(name) for name in ("torch", "triton", "numpy", "pytest", "sqlite-utils")},
        "python": platform.python_version(),
        "cudnn": torch.backends.cudnn.version(),
        "copy_gbps": copies(),
        "tflops": products(),
        "launch_us": {},
    }
    text = json.dumps(found, indent=1, default=str)
    (Path(sys.argv[1]) / "machine.json").write_text(text + "\n")
    print(text)


def median_us(call, seconds: float = 0.4) -> float:  # type: ignore[no-untyped-def]
    return statistics.median(gpu.time_callable(call, seconds=seconds))


def copies() -> dict[str, float]:
    """Return GB/s, bytes read and written together, of a copy, a read and a fill of several sizes."""
    found = {}
    for mib in (64, 256, 1024, 4096):
        source = torch.randn(mib << 18, device="cuda")
        target = torch.empty_like(source)
        found[f"copy {mib} MiB"] = 2 * source.nbytes / median_us(lambda: target.copy_(source)) / 1e3
        found[f"fill {mib} MiB"] = source.nbytes / median_us(lambda: target.fill_(1.0)) / 1e3
        found[f"sum {mib} MiB"] = source.nbytes / median_us(lambda: torch.sum(source)) / 1e3
    return {name: round(gbps, 1) for name, gbps in found.items()}


def products() -> dict[str, float]:
    """Return TFLOP/s of large matrix products by torch."""
    found = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(2))
        found[name] = round(2 * SIDE**3 / median_us(lambda: a @ b) / 1e6, 1)
    return found


if __name__ == "__main__":
    main()
