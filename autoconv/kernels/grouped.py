"""`grouped`: the group on a grid axis of its own; small groups packed block-diagonally.

A tile covers PACK neighbouring groups: its rows are their output channels and its reduction runs over all
their inputs, with zeros in the weight where row and input are of different groups. So groups of fewer than 16
channels still fill a tensor-core tile, at PACK times the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar, forward_only
from autoconv.kernels.dense import x_vector_bytes
from autoconv.kernels.epilogue import finished
from autoconv.kernels.sizes import Strides, alignment, cdiv, needs_int64, powers_of_two
from autoconv.kernels.space import LEAST_DOT, depths, pipelines, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, window, write_y
from autoconv.problem import Problem


@triton.jit
def grouped_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L,
    L_out_units,
    x_batch_units,
    x_channel_units,
    x_step,
    GROUPS: tl.constexpr,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PADDED: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PACK: tl.constexpr,
):
    OF_GROUP: tl.constexpr = CIN_G * K
    REDUCTION: tl.constexpr = PACK * OF_GROUP
    L_out = L_out_units * Y_ALIGN
    tiles_co = tl.cdiv(PACK * COUT_G, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    tile = tl.program_id(0)
    first_group = tl.program_id(1) * PACK
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    x_channel = x_channel_units * X_ALIGN
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)
        x_channel = x_channel.to(tl.int64)

    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    col = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    channel_out = first_group * COUT_G + row
    row_mask = (row < PACK * COUT_G) & (channel_out < GROUPS * COUT_G)
    first = col * STRIDE - PAD_LEFT
    x_sample = x_ptr + n * x_batch_units * X_ALIGN + first_group * CIN_G * x_channel
    # The rows of one group lie together, so a row's group is found by dividing; r's group likewise.
    w_rows = w_ptr + channel_out * OF_GROUP - (row // COUT_G) * OF_GROUP

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        r_mask = (r < REDUCTION) & (first_group * CIN_G + r // K < GROUPS * CIN_G)
        position = first[None, :] + ((r % K) * DILATION)[:, None]
        x_mask = r_mask[:, None] & (position < L)
        if PADDED:
            x_mask = x_mask & (position >= 0)
        w_mask = row_mask[:, None] & r_mask[None, :]
        if PACK > 1:
            w_mask = w_mask & ((row // COUT_G)[:, None] == (r // OF_GROUP)[None, :])
        x = tl.load(x_sample + ((r // K) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    acc = finished(acc, b_ptr, channel_out, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        channel_out = channel_out.to(tl.int64)
    y_sample = y_ptr + n * (GROUPS * COUT_G) * L_out
    y_mask = row_mask[:, None] & (col < L_out)[None, :]
    y_offset = channel_out[:, None] * L_out + col[None, :]
    tl.store(y_sample + y_offset, acc.to(y_ptr.dtype.element_ty), mask=y_mask)


class Grouped(Kernel):
    """See the module's docstring."""

    name = "grouped"
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "PACK")
    jit = grouped_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.groups == 1:
            return "it runs groups > 1, not groups=1"
        if problem.groups > 65535:
            return "its grid puts the groups on axis y, which stops at 65535"
        return forward_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        for pack in _packs(problem):
            rows = tile_sizes(pack * problem.Cout_per_group, 128)
            columns = tile_sizes(problem.L_out, 256)
            for block_co, block_l, block_r in product(
                rows, columns, depths(problem, pack * problem.reduction)
            ):
                tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r, "PACK": pack}
                for num_warps, num_stages in pipelines(cdiv(pack * problem.reduction, block_r)):
                    config = Config(self.name, tiles, num_warps=num_warps, num_stages=num_stages)
                    if fits(self.work(problem, config), config, device):
                        yield config

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (
            problem.N
            * cdiv(problem.L_out, META["BLOCK_L"])
            * cdiv(META["PACK"] * problem.Cout_per_group, META["BLOCK_CO"]),
            cdiv(problem.groups, META["PACK"]),
        )

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        x_batch, x_channel, x_step = x_strides
        x_align = alignment(x_batch, x_channel)
        y_align = alignment(problem.L_out)
        return {
            "L": problem.L,
            "L_out_units": problem.L_out // y_align,
            "x_batch_units": x_batch // x_align,
            "x_channel_units": x_channel // x_align,
            "x_step": x_step,
            "GROUPS": problem.groups,
            "CIN_G": problem.Cin_per_group,
            "COUT_G": problem.Cout_per_group,
            "K": problem.K,
            "STRIDE": problem.stride,
            "PAD_LEFT": problem.pad_left,
            "PADDED": problem.pad_left > 0,
            "DILATION": problem.dilation,
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "PRECISION": problem.precision,
            "X_ALIGN": x_align,
            "Y_ALIGN": y_align,
            "INDEX_64": needs_int64(problem),
        }

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns, depth, pack = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = cdiv(pack * problem.reduction, depth)
        tiles_co = cdiv(pack * problem.Cout_per_group, rows)
        return Work(
            order=(
                ("co", tiles_co),
                ("l", cdiv(problem.L_out, columns)),
                ("n", problem.N),
                ("group", cdiv(problem.groups, pack)),
            ),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=columns * depth * steps,
                    positions=window(problem, columns),
                    channels=pack * problem.Cin_per_group,
                    columns=columns,
                    depth=depth,
                    varies=("l", "n", "group"),
                    advance=columns * problem.stride,
                    moves=(("l", columns * problem.stride), ("n", problem.Cin * problem.L)),
                    vector_bytes=x_vector_bytes(problem),
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=min(rows, pack * problem.Cout_per_group) * problem.reduction,
                    rows=rows,
                    depth=depth,
                    varies=("co", "group"),
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("co", "l", "n", "group"),
                vector_bytes=min(16, alignment(problem.L_out) * size),
                moves=(("co", rows * problem.L_out), ("l", columns), ("n", problem.Cout * problem.L_out)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=10.0,  # as `dense`, with the group's masks
        )


def _packs(problem: Problem) -> list[int]:
    """Return how many groups a tile may hold: one, and the powers of two that fill up to 64 rows."""
    if problem.Cout_per_group >= LEAST_DOT:
        return [1]
    most = max(1, min(problem.groups, 64 // problem.Cout_per_group))
    return powers_of_two(1, most)


KERNEL = Grouped()
