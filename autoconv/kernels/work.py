"""What a launch asks of the machine, as the cost model needs it: sizes, launch order, address maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
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


class AddressMap(NamedTuple):
    """Where the lanes of a warp find their elements: in steps of the vector along `lanes`, then `rows`."""

    lanes: Axis
    rows: Axis
    moves: tuple[tuple[str, int], ...] = ()  # launch axis, and the bytes its next index moves the tile by
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
    varies: tuple[str, ...]  # the launch axes along which blocks touch other bytes
    fresh: float = 1.0  # share of a block's bytes that its neighbour along those axes does not touch


@dataclass(frozen=True)
class Work:
    """What a launch asks of the machine, as the cost model needs it."""

    # Launch axes and their extents, the fastest first; not whole where a last group is clamped.
    order: tuple[tuple[str, float], ...]
    steps: int  # main-loop iterations of a block
    flops: float  # per block, tiles counted whole
    reads: tuple[Access, ...]
    write: Access
    tile: tuple[int, int]  # accumulators of a block, fp32: rows by columns
    stage_bytes_by_operand: tuple[int, int]  # shared memory of one pipeline stage: rows' operand, columns'
    address_instructions: float  # integer instructions per element of x that is read
    tensor_cores: bool = True  # the products are formed there, as far as the precision allows
    workspace_bytes: int = 0  # written, then read again by a second launch

    @property
    def blocks(self) -> int:
        """The blocks of the launch."""
        return round(math.prod(extent for _, extent in self.order))

    @property
    def accumulators(self) -> int:
        """Float32 values a block keeps in registers."""
        return self.tile[0] * self.tile[1]

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one pipeline stage."""
        return sum(self.stage_bytes_by_operand)


def plain(extent: int, stride_bytes: int) -> Axis:
    """Return an axis of equal strides."""
    return Axis(extent, max(1, extent), stride_bytes)


def read_x(
    problem: Problem,
    *,
    elements: int,
    positions: int,
    channels: int,
    columns: int,
    depth: int,
    varies: tuple[str, ...],
    advance: int = 0,
    vector_bytes: int | None = None,
    lanes_along: str = "positions",
    taps: tuple[int, int] | None = None,
    stride: int | None = None,
    moves: tuple[tuple[str, int], ...] = (),
) -> Access:
    """Return a block's reads of x, in tiles of `columns` positions by `depth` of the reduction.

    Args:
        problem: The problem.
        elements: Requested over the block's life.
        positions: Neighbouring input positions that the block touches in each channel.
        channels: Input channels that it touches.
        columns: Output positions of a tile.
        depth: Of the reduction, in one main-loop step.
        varies: Launch axes along which blocks read other parts of x.
        advance: Input positions from a block to its neighbour; less than `positions` where they overlap.
        vector_bytes: Moved by a thread in one instruction; one element by default.
        lanes_along: "positions", or "reduction" where neighbouring lanes read neighbouring channels or taps.
        taps: How many are neighbours in the reduction, and the positions from one to the next; by default
            the problem's taps, tap fastest.
        stride: Input positions between neighbouring columns; the problem's by default.
        moves: Launch axes that shift the tile, and by how many elements.
    """
    size = problem.dtype_bytes
    channel, position = (1, problem.Cin) if problem.layout == "nlc" else (problem.L, 1)
    inner, apart = taps or (problem.K, problem.dilation)
    step = problem.stride if stride is None else stride
    along_l = plain(columns, step * position * size)
    along_r = Axis(depth, inner, apart * position * size, channel * size)
    on_positions = lanes_along == "positions"
    return Access(
        "x",
        elements,
        size,
        vector_bytes or size,
        min(positions, problem.L) * min(channels, problem.Cin) * size,
        math.prod(problem.x_shape) * size,
        AddressMap(
            along_l if on_positions else along_r,
            along_r if on_positions else along_l,
            tuple((axis, shift * size) for axis, shift in moves),
            "rows" if on_positions else "lanes",
        ),
        varies,
        min(1.0, advance / positions) if advance else 1.0,
    )


def read_w(
    problem: Problem,
    *,
    elements: int,
    distinct: int,
    rows: int,
    depth: int,
    varies: tuple[str, ...],
    vector_bytes: int | None = None,
    lane_stride: int = 1,
    row_stride: int | None = None,
) -> Access:
    """Return a block's reads of the weight, of which it touches `distinct` elements.

    A tile is `rows` output channels, `row_stride` elements apart (the reduction's length by default), by
    `depth` of the reduction, along which the lanes lie, `lane_stride` elements apart.
    """
    size = problem.dtype_bytes
    tensor_bytes = math.prod(problem.w_shape) * size
    return Access(
        "w",
        elements,
        size,
        vector_bytes or size,
        min(distinct * size, tensor_bytes),
        tensor_bytes,
        AddressMap(
            plain(depth, lane_stride * size),
            plain(rows, (row_stride or problem.reduction) * size),
            reduction="lanes",
        ),
        varies,
    )


def write_y(
    problem: Problem,
    *,
    rows: int,
    columns: int,
    varies: tuple[str, ...],
    vector_bytes: int | None = None,
    lane_stride: int = 1,
    row_stride: int | None = None,
    moves: tuple[tuple[str, int], ...] = (),
) -> Access:
    """Return a block's writes of y: `rows`, L_out elements apart by default, of `columns` elements each."""
    size = problem.dtype_bytes
    tensor_bytes = math.prod(problem.y_shape) * size
    return Access(
        "y",
        rows * columns,
        size,
        vector_bytes or size,
        min(rows * columns * size, tensor_bytes),
        tensor_bytes,
        AddressMap(
            plain(columns, lane_stride * size),
            plain(rows, (row_stride or problem.L_out) * size),
            tuple((axis, shift * size) for axis, shift in moves),
            "",
        ),
        varies,
    )


def window(problem: Problem, positions: int) -> int:
    """Return the input positions under `positions` neighbouring outputs of a convolution."""
    return (positions - 1) * problem.stride + (problem.K - 1) * problem.dilation + 1


MOST_STAGES = 8  # of the load pipeline; every stage is another copy of the loads ahead of the loop
MOST_OF_THREAD = 128  # accumulators; 255 registers hold operands and addresses too, so beyond it spills
MOST_ACCUMULATORS = 2**15  # of a block, whatever its warps: half the registers of an SM
LEAST_OF_THREAD = 4  # accumulators; with fewer most lanes of a tensor-core instruction hold padding


def excess(work: Work, config: Config, arch: Architecture) -> str | None:
    """Return why a block of `config` is more than an SM of `arch` should be asked for, or None.

    Beyond these bounds a tile spills, does not launch, or compiles for minutes. Triton keeps num_stages - 1
    stages in flight on sm_80 and later.
    """
    rows, columns = work.tile
    most = min(MOST_ACCUMULATORS, MOST_OF_THREAD * 32 * config.num_warps)
    if work.accumulators > most:
        held = f"{most} that {config.num_warps} warps hold"
        return f"makes {rows} x {columns} accumulators of a block, more than the {held}"
    in_flight = max(1, config.num_stages - 1) * work.stage_bytes
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
