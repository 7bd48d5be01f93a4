"""Time stores of y alone: rows that start on a sector or off one, and sectors that two launches fill by halves.

    python scripts/gpu/stores.py DIR

The counters of these patterns say what reaches DRAM (`profile.py`); the times here say what the L2 makes of
them. Every pattern writes the same y.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import torch
import triton
import triton.language as tl

from autoconv import gpu

ROWS, WIDTH = 8192, 65536  # 2 GiB of float32
BLOCK = 1024


@triton.jit
def rows_kernel(y, ROW, START, B: tl.constexpr):
    """Write row by row, ROW elements apart, the first at START."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + START + tl.program_id(1).to(tl.int64) * ROW + at, at.to(tl.float32), mask=at < 65536)


@triton.jit
def strided_kernel(y, ROW, PHASE, STEP: tl.constexpr, B: tl.constexpr):
    """Write every STEP-th element, from PHASE on."""
    at = (tl.program_id(0) * B + tl.arange(0, B)) * STEP + PHASE
    tl.store(y + tl.program_id(1).to(tl.int64) * ROW + at, at.to(tl.float32), mask=at < 65536)


@triton.jit
def together_kernel(y, ROW, STEP: tl.constexpr, B: tl.constexpr):
    """Write every STEP-th element, and at once those between them."""
    for phase in tl.static_range(STEP):
        at = (tl.program_id(0) * B + tl.arange(0, B)) * STEP + phase
        tl.store(y + tl.program_id(1).to(tl.int64) * ROW + at, at.to(tl.float32), mask=at < 65536)


@triton.jit
def phases_kernel(y, ROW, STEP: tl.constexpr, B: tl.constexpr):
    """As `transposed_phases`: the phases on grid axis z, each after all blocks of the one before."""
    at = (tl.program_id(0) * B + tl.arange(0, B)) * STEP + tl.program_id(2)
    tl.store(y + tl.program_id(1).to(tl.int64) * ROW + at, at.to(tl.float32), mask=at < 65536)


def main() -> None:
    """Time each pattern and write DIR/stores.json."""
    y = torch.empty(ROWS * (WIDTH + 16) + 64, device="cuda")
    found = {}

    def timed(name, call):  # type: ignore[no-untyped-def]
        us = statistics.median(gpu.time_callable(call, seconds=0.3))
        found[name] = {"us": round(us, 1), "gbps": round(4 * ROWS * WIDTH / us / 1e3, 1)}
        print(name, found[name], flush=True)

    grid = (WIDTH // BLOCK, ROWS)
    for pitch in (WIDTH, WIDTH + 1, WIDTH + 2, WIDTH + 4, WIDTH + 8):
        timed(f"rows, pitch {pitch}", lambda pitch=pitch: rows_kernel[grid](y, pitch, 0, BLOCK, num_warps=4))
    for start in (1, 2, 4, 8):
        timed(
            f"rows, start {start}", lambda start=start: rows_kernel[grid](y, WIDTH, start, BLOCK, num_warps=4)
        )
    for step in (2, 4):
        some = (WIDTH // BLOCK // step, ROWS)
        timed(
            f"every {step}th, one launch a phase",
            lambda step=step, some=some: [
                strided_kernel[some](y, WIDTH, phase, step, BLOCK, num_warps=4) for phase in range(step)
            ],
        )
        timed(
            f"every {step}th, together",
            lambda step=step, some=some: together_kernel[some](y, WIDTH, step, BLOCK, num_warps=4),
        )
        timed(
            f"every {step}th, phases on z",
            lambda step=step, some=some: phases_kernel[(*some, step)](y, WIDTH, step, BLOCK, num_warps=4),
        )
        timed(
            f"every {step}th alone",
            lambda step=step, some=some: strided_kernel[some](y, WIDTH, 0, step, BLOCK, num_warps=4),
        )
    (Path(sys.argv[1]) / "stores.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
