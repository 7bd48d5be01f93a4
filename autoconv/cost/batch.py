"""Many candidates as columns of numbers, so that the model is arithmetic on arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost import instructions
from autoconv.cost.guess import warp_grid
from autoconv.cost.occupancy import occupancy
from autoconv.cost.traffic import SECTOR, count
from autoconv.device import Architecture, Device
from autoconv.kernels.work import (
    WARP_GROUP,
    WARP_GROUP_ROWS,
    Access,
    Work,
    as_copied,
    uses_wgmma,
)
from autoconv.problem import Problem

Column: TypeAlias = npt.NDArray[np.float64]
Places: TypeAlias = npt.NDArray[np.int64]  # which of some works each candidate has

MOST_AXES = 5  # of any kernel's launch order
TENSOR_FLOPS = {4: 2 * 16 * 8 * 8, 2: 2 * 16 * 8 * 16}
"""FLOPs of one warp's mma.m16n8k8 (TF32) and mma.m16n8k16 (16-bit), by the bytes of an element."""
SCATTERED = 4
"""Conflicts of a copy for wgmma that turns float32 round: of 32 neighbouring elements, 4 bytes each, the
swizzle of 64 or of 128 bytes puts four in each of 8 banks; of elements further apart, more in fewer."""
FMA_FLOPS = 2 * 32  # of one warp's multiply-add on the CUDA cores


class Touch(NamedTuple):
    """One access of all candidates: a step's figures for a read, the whole block's for a write."""

    requests: Column
    sectors: Column
    lines: Column
    ragged_lines: Column
    unique_sectors: Column
    vector_bytes: Column
    distinct_bytes: Column
    overlap: Column
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


Columns = TypeVar("Columns", Slots, Local)


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
    wgmma: Column  # 1.0 where warp groups multiply, else 0.0
    scratch_bytes: Column  # through shared memory at a block's end, both ways
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
    works = list(_as_compiled(configs, works, device.arch))
    given = list(zip(configs, works, resources, strict=True))
    rate = device.tensor_rate(problem.dtype, problem.precision)
    figures = _by_name(
        [_figures(problem, config, work, taken, device, rate) for config, work, taken in given]
    )
    flops = figures["issued_flops"].tolist()
    mixes = [_mix(one, work, taken, each) for (one, work, taken), each in zip(given, flops, strict=True)]
    of_warps = 32 * figures["warps"]
    # Configs of one tile share their work, whose accesses are counted once.
    tiles = {id(work): work for work in works}
    places = {key: place for place, key in enumerate(tiles)}
    at = np.array([places[id(work)] for work in works])
    orders = [[extent for _, extent in work.raster] for work in tiles.values()]
    return Batch(
        extents=_by_axis(orders, 1.0, at),
        reads=tuple(
            _touch([(work, work.reads[number]) for work in tiles.values()], at, per_step=True)
            for number in range(len(works[0].reads))
        ),
        write=_touch([(work, work.write) for work in tiles.values()], at, per_step=False),
        loop=_of_block(Slots, [mix.loop for mix in mixes], figures["warps"]),
        once=_of_block(Slots, [mix.once for mix in mixes], figures["warps"]),
        local=_of_block(Local, [mix.local for mix in mixes], of_warps),
        **figures,
    )


def _as_compiled(configs: Sequence[Config], works: Sequence[Work], arch: Architecture) -> Iterator[Work]:
    """Yield the works with the widths of copies that each config's warps leave; shared where they agree."""
    known: dict[tuple[int, int], Work] = {}
    for config, work in zip(configs, works, strict=True):
        key = id(work), config.num_warps
        if key not in known:
            wgmma = uses_wgmma(work, config.num_warps, arch)
            reads = tuple(as_copied(read, work, config.num_warps, wgmma=wgmma) for read in work.reads)
            known[key] = work if reads == work.reads else replace(work, reads=reads)
        yield known[key]


def _by_name(rows: Sequence[Mapping[str, float]]) -> dict[str, Column]:
    """Turn rows of the same names into a column for each name."""
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def _by_axis(rows: Sequence[Sequence[float]], beyond: float, at: Places) -> tuple[Column, ...]:
    """Turn rows of a figure for each launch axis into a column for each, filled up with `beyond`."""
    filled = np.full((MOST_AXES, len(rows)), beyond)
    for place, row in enumerate(rows):
        filled[: len(row), place] = row
    return tuple(filled[:, at])


def _figures(
    problem: Problem, config: Config, work: Work, taken: Resources, device: Device, rate: float
) -> dict[str, float]:
    """Return one entry of each plain column of a Batch."""
    warps, on_tensor = config.num_warps, work.on_tensor_cores
    wgmma = uses_wgmma(work, warps, device.arch)
    thrice = on_tensor and problem.precision == "tf32x3"
    down, across, rows, columns = _division(work, warps, wgmma=wgmma, thrice=thrice)
    flops = work.flops / work.steps
    rows_bytes, columns_bytes = work.stage_bytes_by_operand
    if on_tensor:  # those whose part is less than one instruction's rows or columns compute padding
        flops *= max(1.0, rows * down / work.tile[0]) * max(1.0, columns * across / work.tile[1])
    issued = flops * (3 if thrice else 1)
    of_instruction = _flops_of_instruction(problem, work, across, wgmma=wgmma)
    scattered = wgmma and problem.dtype_bytes == 4  # see SCATTERED
    return {
        "blocks": work.blocks,
        "steps": work.steps * (1 - work.idle),
        "warps": warps,
        "stages": config.num_stages,
        "flops": flops,
        "flops_per_second": rate if on_tensor else device.fp32_tflops * 1e12,
        "issued_flops": issued,
        "products": issued / of_instruction,
        "wgmma": 1.0 if wgmma else 0.0,
        "staged_bytes": work.tensor_cores
        * sum(
            read.elements
            / work.steps
            * read.element_bytes
            * (min(32, SCATTERED * read.apart) if scattered and read.map.reduction != "lanes" else 1)
            for read in work.reads
        ),
        "operand_bytes": rows_bytes * across + columns_bytes * down,
        "slices": rows_bytes / max(1, work.tile[0]) / 32,
        "tensor_cores": 1.0 if work.tensor_cores else 0.0,
        "scratch_bytes": 2.0 * work.accumulators * work.write.element_bytes * wgmma,
        "address_instructions": work.address_instructions * work.reads[0].elements / (32 * work.steps),
        "workspace_bytes": work.workspace_bytes,
        "blocks_per_sm": occupancy(taken.registers, taken.shared, warps, device.arch).blocks_per_sm,
        "compiled": 1.0 if taken.instructions else 0.0,
        "shared_bytes": taken.shared,
        "local_bytes": 32 * warps * taken.spills,
    }


class _Mix(NamedTuple):
    """What one warp issues, and what one thread moves to and from local memory over the block's life."""

    loop: instructions.Slots  # of a step
    once: instructions.Slots  # outside the loop
    local: instructions.Local


def _mix(config: Config, work: Work, taken: Resources, flops: float) -> _Mix:
    """Return the instruction mix that was compiled; where none was, what spills alone add to a step."""
    spills, steps = float(taken.spills), work.steps * (1 - work.idle)
    if not taken.instructions:  # mostly addresses: words that go out once and come back in every step
        in_step = instructions.NO_SLOTS._replace(issue=spills / 4)
        local = instructions.Local(steps * spills, (1 - work.idle) * spills)
        return _Mix(in_step, instructions.NO_SLOTS, local)
    step, outside = instructions.split(taken, flops, config.num_warps)
    each, once = instructions.local(step), instructions.local(outside)
    loaded, stored = steps * each.loaded + once.loaded, steps * each.stored + once.stored
    return _Mix(instructions.slots(step), instructions.slots(outside), instructions.Local(loaded, stored))


def _of_block(kind: type[Columns], rows: Sequence[NamedTuple], times: Column) -> Columns:
    """Return the columns of `kind` from rows of the same fields, each `times` what its row says."""
    columns = {name: times * column for name, column in _by_name([row._asdict() for row in rows]).items()}
    return kind(**columns)


def _touch(accesses: Sequence[tuple[Work, Access]], at: Places, *, per_step: bool) -> Touch:
    """Return the columns of one access: those of each work, taken at the places `at`."""
    withins = [set() if per_step else _within_sectors(access) for _, access in accesses]
    given = list(zip(accesses, withins, strict=True))
    figures = _by_name([_counts(access, work, within, per_step) for (work, access), within in given])
    varies = [
        [float(axis in access.varies and axis not in within) for axis, _ in work.raster]
        for (work, access), within in given
    ]
    columns = {name: column[at] for name, column in figures.items()}
    return Touch(**columns, varies=_by_axis(varies, 0.0, at))


def _within_sectors(access: Access) -> set[str]:
    """Return the axes along which blocks touch other bytes of the same sectors: those moving by less."""
    return {axis for axis, shift in access.map.moves if 0 < shift < SECTOR}


def _counts(access: Access, work: Work, within: set[str], per_step: bool) -> dict[str, float]:
    """Return one entry of each plain column of a Touch."""
    shared = math.prod(extent for axis, extent in work.raster if axis in within)
    return {
        **count(access, work, per_step=per_step)._asdict(),
        "vector_bytes": access.vector_bytes,
        "distinct_bytes": access.distinct_bytes * min(shared, SECTOR / access.element_bytes),
        "overlap": access.overlap,
        "tensor_bytes": access.tensor_bytes,
    }


def _division(work: Work, warps: int, *, wgmma: bool, thrice: bool) -> tuple[int, int, int, int]:
    """Return what lies along the rows and along the columns, and the least part of each.

    That is warp groups, which come in fours of warps, or warps. Of dots in a chain, as tf32x3 makes of one,
    Triton puts all along the rows.
    """
    if not wgmma:
        return *((warps, 1) if thrice else warp_grid(work.tile, warps)), 16, 8
    groups = warps // WARP_GROUP
    down = min(groups, work.tile[0] // WARP_GROUP_ROWS)
    return down, groups // down, WARP_GROUP_ROWS, 8


def _flops_of_instruction(problem: Problem, work: Work, across: int, *, wgmma: bool) -> float:
    """Return the FLOPs of one warp's instruction: wgmma takes all columns of a group, up to 256, at once."""
    if not work.on_tensor_cores:
        return FMA_FLOPS
    columns = min(256, work.tile[1] // across) if wgmma else 8
    return TENSOR_FLOPS[problem.dtype_bytes] * columns / 8
