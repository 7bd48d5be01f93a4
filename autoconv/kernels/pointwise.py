"""`pointwise`: K = 1, a batched GEMM of the weight with each sample, with the widest loads of both.

Tiles run in groups of GROUP_L windows of L by all tiles of Cout, so that what runs together shares both
operands in the L2; the last group is clamped to the windows that are left.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar, dense_only
from autoconv.kernels.dense import x_vector_bytes
from autoconv.kernels.epilogue import finished
from autoconv.kernels.sizes import Strides, alignment, cdiv, needs_int64
from autoconv.kernels.space import depths, pipelines, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, window, write_y
from autoconv.problem import Problem

GROUPS_OF_L = (1, 8)


@triton.jit
def pointwise_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L,
    L_out_units,
    x_batch_units,
    x_channel_units,
    x_step,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
    GROUP_L: tl.constexpr,
):
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    tiles_co = tl.cdiv(COUT, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    tile = tl.program_id(0)
    n = (tile // (tiles_co * tiles_l)).to(tl.int64)
    tile = tile % (tiles_co * tiles_l)
    group = tile // (GROUP_L * tiles_co)
    in_group = tl.minimum(tiles_l - group * GROUP_L, GROUP_L)
    tile_l = group * GROUP_L + (tile % (GROUP_L * tiles_co)) % in_group
    tile_co = (tile % (GROUP_L * tiles_co)) // in_group
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)
        x_channel = x_channel.to(tl.int64)

    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    col = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    row_mask = row < COUT
    position = col * STRIDE - PAD_LEFT
    inside = position < L
    if PADDED:
        inside = inside & (position >= 0)
    x_columns = x_ptr + n * x_batch_units * X_ALIGN + position * x_step
    w_rows = w_ptr + row * CIN

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, CIN, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        x_mask = inside[None, :]
        w_mask = row_mask[:, None]
        if CIN % BLOCK_R != 0:
            x_mask = x_mask & (r < CIN)[:, None]
            w_mask = w_mask & (r < CIN)[None, :]
        x = tl.load(x_columns[None, :] + (r * x_channel)[:, None], mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    acc = finished(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        row = row.to(tl.int64)
    y_sample = y_ptr + n * COUT * L_out
    y_mask = row_mask[:, None] & (col < L_out)[None, :]
    tl.store(y_sample + row[:, None] * L_out + col[None, :], acc.to(y_ptr.dtype.element_ty), mask=y_mask)


class Pointwise(Kernel):
    """See the module's docstring."""

    name = "pointwise"
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "GROUP_L")
    jit = pointwise_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.K != 1:
            return f"it runs K=1, not K={problem.K}"
        return dense_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        rows, columns = tile_sizes(problem.Cout, 256), tile_sizes(problem.L_out, 256)
        for block_co, block_l, block_r in product(rows, columns, depths(problem, problem.Cin)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}
            for group, (num_warps, num_stages) in product(
                GROUPS_OF_L if problem.Cout > block_co else (1,), pipelines(cdiv(problem.Cin, block_r))
            ):
                config = Config(self.name, {**tiles, "GROUP_L": group}, num_warps, num_stages)
                if fits(self.work(problem, config), config, device):
                    yield config

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (
            problem.N * cdiv(problem.L_out, META["BLOCK_L"]) * cdiv(problem.Cout, META["BLOCK_CO"]),
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
            "CIN": problem.Cin,
            "COUT": problem.Cout,
            "STRIDE": problem.stride,
            "PAD_LEFT": problem.pad_left,
            "PADDED": problem.pad_left > 0,
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "PRECISION": problem.precision,
            "X_ALIGN": x_align,
            "Y_ALIGN": y_align,
            "INDEX_64": needs_int64(problem),
        }

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns, depth, group = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = cdiv(problem.Cin, depth)
        tiles_l = cdiv(problem.L_out, columns)
        return Work(
            order=(
                ("l in group", min(group, tiles_l)),
                ("co", cdiv(problem.Cout, rows)),
                ("group", tiles_l / min(group, tiles_l)),
                ("n", problem.N),
            ),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=columns * depth * steps,
                    positions=window(problem, columns),
                    channels=problem.Cin,
                    columns=columns,
                    depth=depth,
                    varies=("l in group", "group", "n"),
                    advance=columns * problem.stride,
                    moves=(("l in group", columns * problem.stride), ("n", problem.Cin * problem.L)),
                    vector_bytes=x_vector_bytes(problem),
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=min(rows, problem.Cout) * problem.Cin,
                    rows=rows,
                    depth=depth,
                    varies=("co",),
                    vector_bytes=min(16, alignment(problem.Cin) * size),
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("l in group", "co", "group", "n"),
                vector_bytes=min(16, alignment(problem.L_out) * size),
                moves=(
                    ("co", rows * problem.L_out),
                    ("l in group", columns),
                    ("n", problem.Cout * problem.L_out),
                ),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=2.0,  # one add each; nothing depends on a tap
        )


KERNEL = Pointwise()
