"""The guess of what a tile takes, for the thousands of configs that nobody compiles."""

from __future__ import annotations

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import Architecture
from autoconv.kernels.work import Work, copy_bytes, shared_bytes, uses_wgmma

MOST_REGISTERS = 255  # of a thread


def warp_grid(tile: tuple[int, int], num_warps: int) -> tuple[int, int]:
    """Return how many warps lie along the rows and along the columns of the accumulators.

    Triton doubles the side along which a warp still has more instructions of 16 rows by 8 columns.

    >>> warp_grid((128, 128), 8)
    (2, 4)
    """
    down = across = 1
    while down * across < num_warps:
        if (tile[0] / 16 / down >= tile[1] / 8 / across and tile[0] > 16 * down) or tile[1] <= 8 * across:
            down *= 2
        else:
            across *= 2
    return down, across


def guess(config: Config, work: Work, arch: Architecture) -> Resources:
    """Return the resources that a config will take, judged by its tile alone.

    All registers beyond 255 count as spilled, which is more than ptxas does (it computes a part anew: 400
    bytes of 852 in one GEMM tile) and stands for the stalls of a thread that has no register to spare.
    """
    if uses_wgmma(work, config.num_warps, arch):
        wanted, most = _of_groups(config, work)
    else:
        wanted = most = _of_warps(config, work)
    spills = max(0, int(most) - MOST_REGISTERS) * 4
    registers = MOST_REGISTERS if spills else min(MOST_REGISTERS, int(wanted))
    return Resources(registers, spills, shared=shared_bytes(work, config, arch))


def _of_warps(config: Config, work: Work) -> float:
    """Return the registers of a thread whose warp multiplies alone.

    The accumulators, two slices of the operands' fragments, a pointer for each load of a step, and some
    twenty for all else; against cross-compiled GEMM and conv tiles this is within about 12 % of ptxas.
    """
    threads = 32 * config.num_warps
    down, across = warp_grid(work.tile, config.num_warps)
    fragments = max(work.tile[0] / down, 16) / 4 + max(work.tile[1] / across, 8) / 4
    pointers = sum(
        access.elements * access.element_bytes / work.steps / access.vector_bytes / threads
        for access in work.reads
        if access.vector_bytes == 16 or work.tensor_cores
    )
    return 20 + work.accumulators / threads + 2 * fragments * work.tensor_cores + 2 * pointers


def _of_groups(config: Config, work: Work) -> tuple[float, float]:
    """Return the registers of a thread whose warps multiply in groups, typically and at most.

    No operand is in any. From cubins for sm_90 (Triton 3.7.1): 1.25 a copy is typical, and few of those that
    spill take less than 2.3.
    """
    threads = 32 * config.num_warps
    copies = sum(
        read.elements
        * read.element_bytes
        / (work.steps * threads * copy_bytes(read, work, config.num_warps, wgmma=True))
        for read in work.reads
    )
    held = 24 + 1.17 * work.accumulators / threads
    return held + 1.25 * copies, held + 2.3 * copies
