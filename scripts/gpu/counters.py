"""Read with Nsight Compute what only counters tell of the kernels here.

    python -m scripts.gpu.counters DIR

Its targets: the seed problem by the schedule it came with and by the model's first choice, a transposed
convolution with its phases apart and joined, and a store-only kernel with rows on a sector and off one.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__t_sector_hit_rate.pct",
    "lts__t_sectors_op_read.sum",
    "lts__t_sectors_op_write.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "sm__inst_executed.sum",
    "sm__cycles_elapsed.max",
    "launch__registers_per_thread",
)


def main() -> int:
    """Run this file's other half under Nsight Compute."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--targets", action="store_true", help="launch what is to be profiled")
    given = parser.parse_args()
    if given.targets:
        targets()
        return 0
    ncu = nsight_compute()
    if ncu is None:
        print("Nsight Compute is not here: nothing is profiled")
        return 0
    command = [ncu, "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(METRICS)]
    command += ["-k", "regex:_kernel$|^store$", sys.executable, "-m", "scripts.gpu.counters", str(given.out)]
    done = subprocess.run([*command, "--targets"], capture_output=True, text=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith('"')]
    units, *read = csv.DictReader(io.StringIO("\n".join(rows)))
    found = [{name: row[name] for name in ("Kernel Name", *METRICS)} for row in read]
    text = json.dumps({"units": {name: units[name] for name in METRICS}, "kernels": found}, indent=1)
    (given.out / "counters.json").write_text(text + "\n")
    print(text)
    print(done.stderr, file=sys.stderr)
    return done.returncode


def nsight_compute() -> str | None:
    """Return the path of Nsight Compute's command line, or None where it is not installed."""
    installed = sorted(Path("/opt/nvidia/nsight-compute").glob("*/ncu"))
    return shutil.which("ncu") or (str(installed[-1]) if installed else None)


def targets() -> None:
    """Launch each target once; Triton compiles without a launch."""
    import torch

    from autoconv import Config, Problem, gpu
    from autoconv.kernels.registry import kernel
    from autoconv.sweep.candidates import best_guess
    from scripts.gpu.stores import BLOCK, ROWS, WIDTH, store

    def launch(problem: Problem, config: Config) -> None:
        x, w, y = (
            torch.randn(shape, device="cuda") for shape in (problem.x_shape, problem.w_shape, problem.y_shape)
        )
        kernel(config.kernel).launch(problem, config, x, w, None, y)
        torch.cuda.synchronize()
        print(config, flush=True)

    device = gpu.current(0)
    assert device is not None
    seed = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
    launch(
        seed, Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
    )
    launch(seed, best_guess(seed, device)[0])
    transposed = Problem(16, 32, 64, 3, 131072, stride=2, dilation=2, padding=1, op="conv_transpose")
    for name, columns in (("transposed_phases", 256), ("transposed_joined", 128)):
        tiles = {"BLOCK_CO": 64, "BLOCK_L": columns, "BLOCK_R": 16}
        launch(transposed, Config(name, tiles, num_warps=4, num_stages=4))
    y = torch.empty(ROWS * (WIDTH + 16), device="cuda")
    for start in (0, 2):
        store[(WIDTH // BLOCK, ROWS, 1)](y, WIDTH, start, WIDTH, 1, BLOCK)
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
