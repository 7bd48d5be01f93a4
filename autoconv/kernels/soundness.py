"""May a config be compiled and launched? The one rule for what spaces offer and for what comes out of a file.

A space offers what may be fast. What somebody else's database names need not be, but it must be a config of
today's kernels, fit the hardware, compile in seconds and leave the memory to the tensors. Whatever a space
offers is sound; the reverse need not hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from autoconv.config import Config
from autoconv.device import ARCHITECTURES, Architecture
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.sizes import MAX_INT32, beyond_reach
from autoconv.kernels.space import LEAST_DOT
from autoconv.kernels.work import MOST_STAGES, Work, excess
from autoconv.problem import Problem

LARGEST_BLOCK = 2**20
"""Elements of one Triton tensor at most (`TRITON_MAX_TENSOR_NUMEL`), so of one side of a tile too."""

LARGEST_COUNT = 1024
"""Of a tile that is a number of parts or groups, not an extent, such as SPLIT: the most of any space."""

GRID_LIMITS = {"x": MAX_INT32, "y": 65535, "z": 65535}
"""Blocks along each axis: "Technical Specifications per Compute Capability", CUDA C++ Programming Guide."""

MOST_UNROLLED = 4096
"""Multiply-adds of one thread and main-loop step on the CUDA cores, where each is an instruction of its own:
128 accumulators by a depth of 32, the most that a space offers."""

SCRATCH_BYTES = 2**29
"""Of one call, unless a single float32 copy of the result takes more. Spaces split no further than two tiles
of 128 x 128 for each SM in 16 parts, 2 MiB an SM, so this is what 256 SMs would ask for."""


def check_runs(problem: Problem, config: Config) -> Kernel:
    """Return the kernel of `config`, which has its tiles and runs `problem`.

    Raises:
        ConfigError: the kernel is unknown or cannot run the problem, or a tile is missing, unknown or larger
            than any tensor of Triton's.
    """
    kernel = kernel_called(config.kernel)
    kernel.check(config)
    for tile, size in config.tiles.items():
        most = LARGEST_BLOCK if tile.startswith("BLOCK_") else LARGEST_COUNT
        if size > most:
            raise ConfigError(tile, size, f"is more than {most}", f"give a smaller {tile}")
    reason = beyond_reach(problem) or kernel.unsupported(problem)
    if reason is not None:
        raise ConfigError("kernel", config.kernel, f"cannot run {problem}: {reason}", "choose another kernel")
    return kernel


def check_sound(problem: Problem, config: Config, arch: Architecture | None) -> None:
    """Raise ConfigError unless `config` may be compiled for `arch` and launched on `problem`.

    Bounded are tiles, warps, stages, every axis of the grid, and the scratch memory. torch's own
    convolution always may.

    Args:
        problem: The problem.
        config: Any config.
        arch: Of the device; None for one that is not known, which may run what any known one may.

    Raises:
        ConfigError: it may not; the error names the field at fault.
    """
    if config == ATEN:
        return
    kernel = check_runs(problem, config)
    if config.num_stages > MOST_STAGES:
        reason = f"is more than {MOST_STAGES}"
        raise ConfigError("num_stages", config.num_stages, reason, "give fewer stages")
    _check_block(problem, config, kernel.work(problem, config), (arch,) if arch else _roomiest_first())
    _check_launch(problem, config, kernel)


def refusal(problem: Problem, config: Config, arch: Architecture | None) -> str | None:
    """Return in one line why `check_sound` refuses a config, or None where it does not."""
    try:
        check_sound(problem, config, arch)
    except ConfigError as error:
        return str(error)
    return None


def _check_block(problem: Problem, config: Config, work: Work, archs: Sequence[Architecture]) -> None:
    largest, *_, smallest = _extents(config)
    reason = excess(work, config, archs[0])
    # How many stages a block keeps in flight differs by architecture, so the roomiest may not hold the most.
    if reason is not None and all(excess(work, config, arch) is not None for arch in archs[1:]):
        raise ConfigError(largest, config.tiles[largest], reason, "give a smaller tile, or fewer stages")
    if not work.tensor_cores:
        return
    rows, columns = work.tile
    depth = work.stage_bytes_by_operand[0] // (rows * problem.dtype_bytes)
    if min(rows, columns, depth) < LEAST_DOT:
        reason = f"makes a product of {rows} x {columns} x {depth}, no side of which may be under {LEAST_DOT}"
        raise ConfigError(smallest, config.tiles[smallest], reason, f"give a larger {smallest}")
    unrolled = rows * columns * depth // (32 * config.num_warps)
    if problem.dtype == "float32" and problem.precision == "ieee" and unrolled > MOST_UNROLLED:
        reason = f"makes {unrolled} multiply-adds a thread and step, more than {MOST_UNROLLED}"
        raise ConfigError(largest, config.tiles[largest], reason, "give a smaller tile, or more warps")


def _check_launch(problem: Problem, config: Config, kernel: Kernel) -> None:
    grid = kernel.grid(problem)(config.meta)
    for (axis, most), blocks in zip(GRID_LIMITS.items(), grid, strict=False):
        if blocks > most:
            reason = f"has {blocks} blocks on axis {axis}, which stops at {most}"
            raise ConfigError("grid", " x ".join(map(str, grid)), reason, "give larger tiles, or fewer parts")
    scratch = 4 * kernel.workspace(problem, config)
    most = max(SCRATCH_BYTES, 4 * math.prod(problem.y_shape))
    if scratch > most:
        reason = f"is more than {most} bytes"
        raise ConfigError("scratch", scratch, reason, "give larger tiles, or fewer parts")


def _extents(config: Config) -> list[str]:
    """Return the names of the tiles that are extents, the largest first."""
    names = [tile for tile in config.tiles if tile.startswith("BLOCK_")]
    return sorted(names, key=lambda tile: -config.tiles[tile])


@lru_cache(maxsize=1)
def _roomiest_first() -> tuple[Architecture, ...]:
    return tuple(sorted(ARCHITECTURES.values(), key=lambda arch: -arch.shared_per_block_max))
