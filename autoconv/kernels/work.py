"""What a launch asks of the machine, as the cost model needs it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoconv.config import Config
from autoconv.device import Device
from autoconv.problem import Problem


@dataclass(frozen=True)
class Access:
    """One tensor as one block reads or writes it, over the block's whole life."""

    tensor: str  # "x", "w" or "y"
    elements: int  # requested by the block, those outside the tensor included
    element_bytes: int
    vector_bytes: int  # moved by one thread in one instruction
    lane_stride_bytes: int  # between the addresses of neighbouring threads
    distinct_bytes: int  # of the tensor that the block touches
    tensor_bytes: int
    passes: int = 1  # times that launch order walks the tensor end to end: what an L2 too small for it pays


@dataclass(frozen=True)
class Work:
    """What a launch asks of the machine, as the cost model needs it."""

    blocks: int
    steps: int  # main-loop iterations of a block
    flops: float  # per block, tiles counted whole
    reads: tuple[Access, ...]
    write: Access
    accumulators: int  # fp32 values a block keeps in registers
    stage_bytes_by_operand: tuple[int, int]  # shared memory of one pipeline stage: rows' operand, columns'
    address_instructions: float  # integer instructions per element of x that is read
    tensor_cores: bool = True  # the products are formed there, as far as the precision allows
    workspace_bytes: int = 0  # written, then read again by a second launch

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one pipeline stage."""
        return sum(self.stage_bytes_by_operand)


def read_x(
    problem: Problem,
    *,
    elements: int,
    positions: int,
    channels: int,
    vector_bytes: int | None = None,
    lane_stride: int = 1,
    passes: int = 1,
) -> Access:
    """Return a block's reads of x.

    Args:
        problem: The problem.
        elements: Requested over the block's life.
        positions: Neighbouring input positions that the block touches in each channel.
        channels: Input channels that it touches.
        vector_bytes: Moved by a thread in one instruction; one element by default.
        lane_stride: Elements between the addresses of neighbouring threads.
        passes: Times that launch order walks all of x.
    """
    size = problem.dtype_bytes
    return Access(
        "x",
        elements,
        size,
        vector_bytes or size,
        lane_stride * size,
        min(positions, problem.L) * min(channels, problem.Cin) * size,
        math.prod(problem.x_shape) * size,
        passes,
    )


def read_w(
    problem: Problem, *, elements: int, distinct: int, vector_bytes: int | None = None, lane_stride: int = 1
) -> Access:
    """Return a block's reads of the weight, of which it touches `distinct` elements."""
    size = problem.dtype_bytes
    tensor_bytes = math.prod(problem.w_shape) * size
    wide = vector_bytes or size
    return Access(
        "w", elements, size, wide, lane_stride * size, min(distinct * size, tensor_bytes), tensor_bytes
    )


def write_y(
    problem: Problem, *, elements: int, vector_bytes: int | None = None, lane_stride: int = 1
) -> Access:
    """Return a block's writes of y."""
    size = problem.dtype_bytes
    tensor_bytes = math.prod(problem.y_shape) * size
    wide = vector_bytes or size
    return Access(
        "y", elements, size, wide, lane_stride * size, min(elements * size, tensor_bytes), tensor_bytes
    )


def window(problem: Problem, positions: int) -> int:
    """Return the input positions under `positions` neighbouring outputs of a convolution."""
    return (positions - 1) * problem.stride + (problem.K - 1) * problem.dilation + 1


def fits(work: Work, config: Config, device: Device) -> bool:
    """Return whether a config is worth compiling: room for its accumulators, its stages, work for its warps.

    Beyond 128 accumulators a thread the tile spills (255 registers hold operands and addresses too); under 4
    most lanes of a tensor-core instruction hold padding. Triton keeps num_stages - 1 stages in flight on
    sm_80 and later.
    """
    accumulators = work.accumulators / (32 * config.num_warps)
    in_flight = max(1, config.num_stages - 1) * work.stage_bytes
    return 4 <= accumulators <= 128 and in_flight <= device.arch.shared_per_block_max
