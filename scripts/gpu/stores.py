"""Time stores alone: rows that start on a sector or off one, and elements that several passes interleave.

    python -m scripts.gpu.stores DIR

Every pattern writes the same 2 GiB; `counters` says what of it reaches DRAM.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.language as tl

from autoconv.sweep.timing import time_callable

ROWS, WIDTH = 8192, 65536  # float32
BLOCK = 1024
SECONDS = 0.3  # for the samples of one pattern


@triton.jit  # type: ignore[untyped-decorator]
def store(y, PITCH, START, WIDTH: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write every STEP-th element of a row, from START plus the phase on grid axis z."""
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * STEP + tl.program_id(2)
    row = y + tl.program_id(1).to(tl.int64) * PITCH + START
    tl.store(row + at, at.to(tl.float32), mask=at < WIDTH)


@triton.jit  # type: ignore[untyped-decorator]
def store_phases(y, PITCH, WIDTH: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the same elements, all phases in one block, one after the other."""
    row = y + tl.program_id(1).to(tl.int64) * PITCH
    for phase in tl.static_range(STEP):
        at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * STEP + phase
        tl.store(row + at, at.to(tl.float32), mask=at < WIDTH)


def patterns(y: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return the launches, by name."""

    def rows(pitch: int, start: int) -> Callable[[], object]:
        return lambda: store[(WIDTH // BLOCK, ROWS, 1)](y, pitch, start, WIDTH, 1, BLOCK)

    def phases(step: int) -> Callable[[], object]:
        return lambda: store[(WIDTH // BLOCK // step, ROWS, step)](y, WIDTH, 0, WIDTH, step, BLOCK)

    def together(step: int) -> Callable[[], object]:
        return lambda: store_phases[(WIDTH // BLOCK // step, ROWS)](y, WIDTH, WIDTH, step, BLOCK)

    return {
        **{f"rows at a pitch of {WIDTH + more}": rows(WIDTH + more, 0) for more in (0, 1, 2, 4, 8)},
        **{f"rows from element {start}": rows(WIDTH, start) for start in (1, 2, 4, 8)},
        **{f"every {step}th element, a pass each": phases(step) for step in (2, 4)},
        **{f"every {step}th element, in one block": together(step) for step in (2, 4)},
    }


def main() -> None:
    """Time each pattern and write DIR/stores.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    y = torch.empty(ROWS * (WIDTH + 16), device="cuda")
    found = {}
    for name, call in patterns(y).items():
        us = statistics.median(time_callable(call, seconds=SECONDS))
        found[name] = {"us": round(us, 1), "gbps": round(4 * ROWS * WIDTH / us / 1e3, 1)}
        print(name, found[name], flush=True)
    (out / "stores.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
