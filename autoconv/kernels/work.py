"""What a launch asks of the machine, as the cost model needs it: sizes, launch order, address maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from autoconv.config import Config
from autoconv.device import Architecture, Device
from autoconv.kernels.sizes import MAX_INT32
from autoconv.problem import Problem


class Axis(NamedTuple):
    """One axis of a tile in memory: index i lies (i % inner) * near + (i // inner) * far bytes on."""

    extent: int
    inner: int
    near: int
    far: int = 0

    def scaled(self, by: int) -> Axis:
        """Return the same axis in units `by` times smaller: from elements to bytes."""
        return Axis(self.extent, self.inner, self.near * by, self.far * by)


class AddressMap(NamedTuple):
    """Where the lanes of a warp find their elements: in steps of the vector along `lanes`, then `rows`."""

    lanes: Axis
    rows: Axis
    moves: tuple[tuple[str, int], ...] = ()  # launch axis along which it varies, and bytes to the next's tile
    reduction: str = "rows"  # the axis that the main loop advances: "lanes", "rows" or "" for neither


@dataclass(frozen=True)
class Access:
    """One tensor as one block reads or writes it, over the block's whole life."""

    tensor: str  # "x", "w" or "y"
    elements: int  # requested by the block, those outside the tensor included
    element_bytes: int
    vector_bytes: int  # moved by one thread in one instruction
    distinct_bytes: int  # of the tensor that the block touches
    tensor_bytes: int
    map: AddressMap
    overlap: float = 0.0  # share of a block's bytes that its neighbour along those axes touches too
    apart: int = 1  # vectors from one lane to the next: more where a thread takes its neighbours one by one

    @property
    def varies(self) -> frozenset[str]:
        """The launch axes along which blocks touch other bytes."""
        return frozenset(axis for axis, _ in self.map.moves)


@dataclass(frozen=True)
class Work:
    """What a launch asks of the machine, as the cost model needs it."""

    # Launch axes and their extents, the fastest first; not whole where a last group is clamped.
    raster: tuple[tuple[str, float], ...]
    steps: int  # main-loop iterations of a block
    flops: float  # per block, tiles counted whole
    reads: tuple[Access, ...]
    write: Access
    tile: tuple[int, int]  # accumulators of a block, fp32: rows by columns
    stage_bytes_by_operand: tuple[int, int]  # shared memory of one pipeline stage: rows' operand, columns'
    address_instructions: float  # integer instructions per element of x that is read
    tensor_cores: bool = True  # the products are formed there, as far as the precision allows
    precision: str = "tf32"  # of float32 products: "tf32", "tf32x3" or "ieee", as in Problem
    workspace_bytes: int = 0  # written, then read again by a second launch
    idle: float = 0.0  # share of the blocks that read and multiply nothing: they only write

    @property
    def blocks(self) -> int:
        """The blocks of the launch."""
        return round(math.prod(extent for _, extent in self.raster))

    @property
    def on_tensor_cores(self) -> bool:
        """Whether the tensor cores form the products: all but float32's at full precision."""
        return self.tensor_cores and (self.reads[0].element_bytes < 4 or self.precision != "ieee")

    @property
    def accumulators(self) -> int:
        """Float32 values a block keeps in registers."""
        return self.tile[0] * self.tile[1]

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one pipeline stage."""
        return sum(self.stage_bytes_by_operand)


def plain(extent: int, stride: int) -> Axis:
    """Return an axis of equal strides."""
    return Axis(extent, 1, 0, stride)


def window(problem: Problem, positions: int) -> int:
    """Return the input positions under `positions` neighbouring outputs of a convolution."""
    return (positions - 1) * problem.stride + (problem.K - 1) * problem.dilation + 1


# --- what Triton makes of it ----------------------------------------------------------------------

COPY_BYTES = 4  # the least that an asynchronous copy moves; narrower loads go through registers
WARP_GROUP = 4  # warps that multiply together on sm_90
WARP_GROUP_ROWS = 64  # of its one instruction


def uses_wgmma(work: Work, num_warps: int, arch: Architecture) -> bool:
    """Return whether Triton multiplies by warp groups, whose operands stay in shared memory (HGMMA).

    Seen in every one of some hundred cubins for sm_90 (Triton 3.6.0 and 3.7.1): whole groups of warps, and
    no fewer than 64 rows; all else multiplies as on sm_80 (HMMA).
    """
    whole = num_warps % WARP_GROUP == 0 and work.tile[0] >= WARP_GROUP_ROWS
    return arch.capability == 90 and work.on_tensor_cores and whole


def copy_bytes(read: Access, work: Work, num_warps: int, *, wgmma: bool) -> int:
    """Return the bytes that a thread moves in one instruction of this read, as Triton lays its tile out.

    No more than the tile has for a thread. Wgmma takes float32 only with the reduction contiguous in shared
    memory, so what is contiguous along the other axis is then copied element by element.
    """
    if not work.tensor_cores:
        return read.vector_bytes
    if wgmma and read.element_bytes == 4 and read.map.reduction != "lanes":
        return read.element_bytes
    of_thread = read.elements * read.element_bytes // (work.steps * 32 * num_warps)
    return max(read.element_bytes, min(read.vector_bytes, of_thread))


def as_copied(read: Access, work: Work, num_warps: int, *, wgmma: bool) -> Access:
    """Return a read with the width that `copy_bytes` gives, and its lanes as far apart as they then are.

    A thread still has the elements of one wide load, and takes them one after the other.
    """
    width = copy_bytes(read, work, num_warps, wgmma=wgmma)
    of_thread = read.elements * read.element_bytes // (work.steps * 32 * num_warps)
    wide = max(width, min(read.vector_bytes, of_thread))
    return replace(read, vector_bytes=width, apart=wide // width)


def shared_bytes(work: Work, config: Config, arch: Architecture) -> int:
    """Return the shared memory that Triton gives a block: buffers of the pipeline, or scratch for the end.

    A product waits for its operands in num_stages - 1 buffers, and for those that wgmma reads from shared
    memory, while the next are being copied, in num_stages; what no asynchronous copy moves has one. At tf32x3
    wgmma takes the rows from registers, and two parts of the columns from buffers of their own. The end
    brings the accumulators of wgmma into the order of the stores, all at once, in the same memory.
    """
    wgmma = uses_wgmma(work, config.num_warps, arch)
    thrice = wgmma and work.precision == "tf32x3" and work.reads[0].element_bytes == 4
    stages = config.num_stages if wgmma and not thrice else max(1, config.num_stages - 1)
    if not work.tensor_cores:
        return 0
    total = 2 * work.stage_bytes_by_operand[1] * thrice
    for read in work.reads:
        narrow = copy_bytes(read, work, config.num_warps, wgmma=wgmma) < COPY_BYTES
        total += read.elements // work.steps * read.element_bytes * (1 if narrow else stages)
    in_parts = any(axis == "part" for axis, _ in work.raster)  # whose sums are float32
    stored = 4 if in_parts else work.write.element_bytes
    return max(total, work.accumulators * stored * wgmma)


# --- how much of it is too much -------------------------------------------------------------------

MOST_STAGES = 8  # of the load pipeline; every stage is another copy of the loads ahead of the loop
MOST_OF_THREAD = 128  # accumulators; 255 registers hold operands and addresses too, so beyond it spills
MOST_ACCUMULATORS = 2**15  # of a block, whatever its warps: half the registers of an SM
LEAST_OF_THREAD = 4  # accumulators; with fewer most lanes of a tensor-core instruction hold padding


def excess(work: Work, config: Config, arch: Architecture) -> str | None:
    """Return why a block of `config` is more than an SM of `arch` should be asked for, or None.

    Beyond these bounds a tile spills, does not launch, or compiles for minutes.
    """
    rows, columns = work.tile
    most = min(MOST_ACCUMULATORS, MOST_OF_THREAD * 32 * config.num_warps)
    if work.accumulators > most:
        held = f"{most} that {config.num_warps} warps hold"
        return f"makes {rows} x {columns} accumulators of a block, more than the {held}"
    in_flight = shared_bytes(work, config, arch)
    if in_flight > arch.shared_per_block_max:
        given = f"{arch.shared_per_block_max} bytes of a block on {arch.name}"
        return f"keeps {in_flight} bytes in shared memory, more than the {given}"
    return None


def fits(work: Work, config: Config, device: Device) -> bool:
    """Return whether a config is worth compiling: sound, and with enough work for its warps.

    A grid ends at 2**31 - 1 blocks along axis x.
    """
    busy = work.accumulators >= LEAST_OF_THREAD * 32 * config.num_warps
    return busy and work.blocks <= MAX_INT32 and excess(work, config, device.arch) is None
