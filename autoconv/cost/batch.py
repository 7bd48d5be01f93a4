"""Many candidates as columns of numbers, so that the model is arithmetic on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost import instructions
from autoconv.cost.occupancy import occupancy
from autoconv.cost.traffic import SECTOR, count
from autoconv.device import Device
from autoconv.kernels.work import Access, Work
from autoconv.problem import Problem

Column: TypeAlias = npt.NDArray[np.float64]

MOST_AXES = 5  # of any kernel's launch order
TENSOR_FLOPS = {4: 2 * 16 * 8 * 8, 2: 2 * 16 * 8 * 16}
"""FLOPs of one warp's mma.m16n8k8 (TF32) and mma.m16n8k16 (16-bit), by the bytes of an element."""
FMA_FLOPS = 2 * 32  # of one warp's multiply-add on the CUDA cores


class Touch(NamedTuple):
    """One access of all candidates: a step's figures for a read, the whole block's for a write."""

    requests: Column
    sectors: Column
    lines: Column
    unique_sectors: Column
    vector_bytes: Column
    distinct_bytes: Column
    fresh: Column
    tensor_bytes: Column
    varies: tuple[Column, ...]  # by launch axis: 1.0 where others read other bytes, write other sectors


class Slots(NamedTuple):
    """Issue slots, summed over the warps of a block; see `instructions.Slots`."""

    issue: Column
    integer: Column
    xu: Column
    shuffles: Column


class Local(NamedTuple):
    """Bytes that a block moves to and from local memory over its life."""

    loaded: Column
    stored: Column


@dataclass(frozen=True)
class Batch:
    """Candidates for one problem or several, one per entry of each column."""

    extents: tuple[Column, ...]  # of the launch axes, the fastest first
    reads: tuple[Touch, ...]
    write: Touch
    blocks: Column
    steps: Column  # in the mean of all blocks: idle ones have none
    warps: Column
    stages: Column
    flops: Column  # of a block and step
    flops_per_second: Column  # the device's peak for them
    issued_flops: Column  # of a block and step, once for each pass that the precision takes
    products: Column  # warp instructions that multiply, of a block and step
    staged_bytes: Column  # written to shared memory in a step
    operand_bytes: Column  # read from shared memory in a step, by all warps together
    slices: Column  # 32-byte slices of the reduction in a step: links of the dependent chain
    tensor_cores: Column  # 1.0 or 0.0
    address_instructions: Column  # warp instructions of a block and step
    workspace_bytes: Column
    blocks_per_sm: Column
    compiled: Column  # 1.0 where the instruction mix is known, else 0.0
    shared_bytes: Column  # shared memory of a block
    local_bytes: Column  # local memory of a block
    loop: Slots  # of a block and step; where not compiled, what spills alone add
    once: Slots  # of a block outside the loop; 0 where not compiled
    local: Local  # of a block


def batch(
    problem: Problem,
    configs: Sequence[Config],
    works: Sequence[Work],
    resources: Sequence[Resources],
    device: Device,
) -> Batch:
    """Return the columns of `configs`, each with its work and its resources."""
    rate = device.tensor_rate(problem.dtype, problem.precision)
    of_work = {id(work): _touches(work) for work in works}  # configs of one tile share their work
    rows = [
        of_work[id(work)] + _row(problem, config, work, taken, device, rate)
        for config, work, taken in zip(configs, works, resources, strict=True)
    ]
    columns = list(np.array(rows, dtype=np.float64).T)
    accesses = []
    for _ in range(len(works[0].reads) + 1):
        figures, columns = columns[: 8 + MOST_AXES], columns[8 + MOST_AXES :]
        accesses.append(Touch._make([*figures[:8], tuple(figures[8:])]))
    extents, columns = tuple(columns[:MOST_AXES]), columns[MOST_AXES:]
    *reads, write = accesses
    plain, loop, once, local = columns[:-10], columns[-10:-6], columns[-6:-2], columns[-2:]
    fields: list[Any] = [*plain, Slots._make(loop), Slots._make(once), Local._make(local)]
    return Batch(extents, tuple(reads), write, *fields)


def _row(
    problem: Problem, config: Config, work: Work, taken: Resources, device: Device, rate: float
) -> list[float]:
    warps = config.num_warps
    # Of dots in a chain, as tf32x3 makes of one, Triton puts all warps along the rows.
    down, across = (warps, 1) if problem.precision == "tf32x3" else warp_grid(work.tile, warps)
    on_tensor = work.tensor_cores and not (problem.dtype == "float32" and problem.precision == "ieee")
    flops = work.flops / work.steps
    rows_bytes, columns_bytes = work.stage_bytes_by_operand
    depth_bytes = rows_bytes / max(1, work.tile[0])
    room = occupancy(taken.registers, taken.shared, warps, device.arch)
    if on_tensor:  # warps whose part is less than one instruction's 16 rows or 8 columns compute padding
        flops *= max(1.0, 16 * down / work.tile[0]) * max(1.0, 8 * across / work.tile[1])
    issued = flops * (3 if on_tensor and problem.precision == "tf32x3" else 1)
    return [
        work.blocks,
        work.steps * (1 - work.idle),
        warps,
        config.num_stages,
        flops,
        rate if on_tensor else device.fp32_tflops * 1e12,
        issued,
        issued / (TENSOR_FLOPS[problem.dtype_bytes] if on_tensor else FMA_FLOPS),
        rows_bytes + columns_bytes,
        rows_bytes * across + columns_bytes * down,
        depth_bytes / 32,
        1.0 if work.tensor_cores else 0.0,
        work.address_instructions * work.reads[0].elements / (32 * work.steps),
        work.workspace_bytes,
        room.blocks_per_sm,
        1.0 if taken.instructions else 0.0,
        taken.shared,
        32 * warps * taken.spills,
        *_of_warps(taken, issued, work.steps, warps, 1 - work.idle),
    ]


def _of_warps(taken: Resources, flops: float, steps: int, warps: int, busy: float) -> list[float]:
    """Return the issue slots of a step and of what is outside the loop, and the bytes of local memory."""
    slots: tuple[float, ...]
    if taken.instructions:
        step, outside = instructions.split(taken, flops, warps)
        slots = (*instructions.slots(step), *instructions.slots(outside))
        moved = zip(instructions.local(step), instructions.local(outside), strict=True)
        local = [32 * (steps * busy * of_step + once) for of_step, once in moved]
    else:  # what spills are mostly addresses: words that go out once and come back in every step
        slots = (taken.spills / 4, *[0.0] * 7)
        local = [32.0 * steps * busy * taken.spills, 32.0 * busy * taken.spills]
    return [warps * figure for figure in (*slots, *local)]


def _touches(work: Work) -> list[float]:
    extents = [extent for _, extent in work.order]
    return [
        *(figure for read in work.reads for figure in _touch(read, work, per_step=True)),
        *_touch(work.write, work, per_step=False),
        *extents,
        *[1] * (MOST_AXES - len(extents)),
    ]


def _touch(access: Access, work: Work, *, per_step: bool) -> list[float]:
    # Blocks along an axis that moves by less than a sector touch other bytes of the same sectors.
    within = {axis for axis, shift in access.map.moves if 0 < shift < SECTOR} if not per_step else set()
    varies = [1.0 if axis in access.varies and axis not in within else 0.0 for axis, _ in work.order]
    shared = math.prod(extent for axis, extent in work.order if axis in within)
    return [
        *count(access, work, per_step=per_step),
        access.vector_bytes,
        access.distinct_bytes * min(shared, SECTOR / access.element_bytes),
        access.fresh,
        access.tensor_bytes,
        *varies,
        *[0.0] * (MOST_AXES - len(varies)),
    ]


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


def guess(config: Config, work: Work) -> Resources:
    """Return the resources that a config will take, judged by its tile alone.

    Registers are the accumulators, two slices of the operands' fragments, a pointer for each load of a
    step, and some twenty for all else; against cross-compiled GEMM and conv tiles this is within about
    12 % of ptxas. All beyond 255 counts as spilled, which is more than ptxas does (it computes a part anew:
    400 bytes of 852 in one GEMM tile) and stands for the stalls of a thread that has no register to spare.
    """
    threads = 32 * config.num_warps
    down, across = warp_grid(work.tile, config.num_warps)
    fragments = max(work.tile[0] / down, 16) / 4 + max(work.tile[1] / across, 8) / 4
    pointers = sum(
        access.elements * access.element_bytes / work.steps / access.vector_bytes / threads
        for access in work.reads
        if access.vector_bytes == 16 or work.tensor_cores
    )
    wanted = 20 + work.accumulators / threads + 2 * fragments * work.tensor_cores + 2 * pointers
    registers = min(255, int(wanted))
    spills = max(0, int(wanted) - 255) * 4
    return Resources(registers, spills, shared=max(1, config.num_stages - 1) * work.stage_bytes)
