"""The parts of a config space that kernels share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from autoconv.kernels.sizes import next_power_of_two, powers_of_two
from autoconv.problem import Problem

LEAST_DOT = 16  # the smallest extent of a tl.dot operand on every supported architecture


def tile_sizes(extent: int, most: int, least: int = LEAST_DOT) -> list[int]:
    """Return the tile sizes for an axis of `extent`: powers of two up to the first that covers it.

    >>> tile_sizes(100, 256)
    [16, 32, 64, 128]
    """
    return powers_of_two(least, min(most, max(least, next_power_of_two(extent))))


def depths(problem: Problem, reduction: int) -> list[int]:
    """Return tile sizes for the reduction: up to 256 bytes of it, or 128 on the CUDA cores.

    Triton unrolls a tile of float32 products on the CUDA cores into single instructions, so a deep one takes
    minutes to compile.
    """
    on_cuda_cores = problem.dtype == "float32" and problem.precision == "ieee"
    return tile_sizes(reduction, 32 if on_cuda_cores else 256 // problem.dtype_bytes)


def pipelines(steps: int, warps: tuple[int, ...] = (2, 4, 8)) -> Iterator[tuple[int, int]]:
    """Yield (num_warps, num_stages); a stage beyond the last step only takes shared memory."""
    yield from product(warps, range(2, max(2, min(5, steps)) + 1))
