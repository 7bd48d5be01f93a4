"""Profile what only counters can tell, with Nsight Compute; prints and keeps its table of metrics.

    python scripts/gpu/profile.py DIR

Its targets: the seed problem by the schedule it came with and by the model's first choice, a copy, and a
store-only kernel whose rows start on a sector and off one.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
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
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1tex__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1tex__data_pipe_lsu_wavefronts.avg.pct_of_peak_sustained_elapsed",
    "sm__inst_issued.avg.pct_of_peak_sustained_active",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio",
    "launch__registers_per_thread",
    "launch__occupancy_limit_registers",
    "launch__waves_per_multiprocessor",
)
TARGET = "regex:im2col|dense|store_only|narrow|pointwise|transposed|split|grouped"


def nsight_compute() -> str | None:
    """Return the path of Nsight Compute's command line, or None where it is not."""
    found = shutil.which("ncu")
    if found:
        return found
    return next((str(path) for path in sorted(Path("/opt/nvidia/nsight-compute").glob("*/ncu"))), None)


def main() -> int:
    """Run this file's other half under Nsight Compute."""
    ncu = nsight_compute()
    if ncu is None:
        print("Nsight Compute is not here: nothing is profiled")
        return 0
    command = [ncu, "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(METRICS)]
    command += ["-k", TARGET, sys.executable, __file__, "--target"]
    done = subprocess.run(command, capture_output=True, text=True)
    (Path(sys.argv[1]) / "profile.csv").write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        print({name: row.get(name) for name in ("Kernel Name", *METRICS)})
    print("\n".join(line for line in done.stdout.splitlines() if not line.startswith('"'))[-3000:])
    print(done.stderr[-2000:])
    return done.returncode


def targets() -> None:
    """Launch each target once, after a first launch that compiles it."""
    import torch
    import triton
    import triton.language as tl

    from autoconv import Config, Problem, gpu
    from autoconv.kernels.registry import kernel
    from autoconv.sweep.candidates import best_guess

    @triton.jit
    def store_only(y, ROW, B: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * B + tl.arange(0, B)
        tl.store(y + row * ROW + at, at.to(tl.float32), mask=at < ROW)

    seed = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
    x = torch.randn(seed.x_shape, device="cuda")
    w = torch.randn(seed.w_shape, device="cuda")
    y = torch.empty(seed.y_shape, device="cuda")

    def launch(problem: Problem, config: Config) -> None:
        x, w, y = (
            torch.randn(shape, device="cuda", dtype=getattr(torch, problem.dtype))
            for shape in (problem.x_shape, problem.w_shape, problem.y_shape)
        )
        kernel(config.kernel).launch(problem, config, x, w, None, y)
        torch.cuda.synchronize()
        print(config, problem, flush=True)

    def config(name: str, tiles: tuple[int, int, int], warps: int, stages: int, **more: int) -> Config:
        named = dict(zip(("BLOCK_CO", "BLOCK_L", "BLOCK_R"), tiles, strict=True))
        return Config(name, {**named, **more}, num_warps=warps, num_stages=stages)

    transposed = Problem(16, 32, 64, 3, 131072, stride=2, dilation=2, padding=1, op="conv_transpose")
    launch(transposed, config("transposed_phases", (64, 256, 16), 4, 4))
    launch(transposed, config("transposed_joined", (64, 128, 16), 4, 4))
    square = Problem(32, 512, 512, 3, 1024, padding=1)
    launch(square, config("dense", (256, 128, 16), 8, 5))
    half = replace(square, dtype="float16", precision="ieee")
    launch(half, config("dense", (256, 64, 64), 4, 3))
    launch(half, config("dense", (256, 128, 64), 8, 3))
    launch(Problem(32, 64, 128, 3, 131072), config("dense", (128, 128, 16), 4, 4))
    wide = Problem(8, 256, 512, 1, 3200, dtype="float16")
    launch(wide, config("pointwise", (128, 128, 32), 4, 4, GROUP_L=8, X_BYTES=16))
    launch(wide, config("pointwise", (128, 128, 64), 4, 3, GROUP_L=8, X_BYTES=16))

    rows = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
    for chosen in (rows, best_guess(seed, gpu.current(0))[0]):
        kernel(chosen.kernel).launch(seed, chosen, x, w, None, y)
        torch.cuda.synchronize()
        print(chosen, flush=True)
    flat = y.view(-1)
    for row in (74758, 74760):  # 4 bytes x 74758 is no multiple of a sector's 32; x 74760 is one
        store_only[(flat.numel() // 74760, triton.cdiv(row, 1024))](flat, row, 1024, num_warps=4)
        torch.cuda.synchronize()


if __name__ == "__main__":
    if "--target" in sys.argv:
        targets()
    else:
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        sys.exit(main())
