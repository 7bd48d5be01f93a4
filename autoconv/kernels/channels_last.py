"""`channels_last`: x with its channels side by side in memory, as a transposed view has them.

The reduction runs over (tap, channel) with the channel fastest: a tile of x is then read along the channels,
16 bytes at a time whatever stride, dilation and tap. x is taken by its strides, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar, dense_only
from autoconv.kernels.epilogue import finished
from autoconv.kernels.sizes import Strides, alignment, cdiv, needs_int64
from autoconv.kernels.space import depths, pipelines, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, window, write_y
from autoconv.problem import Problem


@triton.jit
def channels_last_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L,
    L_out_units,
    x_batch_units,
    x_step_units,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
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
):
    CHUNKS: tl.constexpr = (CIN + BLOCK_R - 1) // BLOCK_R
    L_out = L_out_units * Y_ALIGN
    x_step = x_step_units * X_ALIGN
    tiles_co = tl.cdiv(COUT, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    tile = tl.program_id(0)
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)
        x_step = x_step.to(tl.int64)
    col = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT
    x_sample = x_ptr + n * x_batch_units * X_ALIGN
    w_rows = w_ptr + row * (CIN * K)

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for chunk in range(CHUNKS * K):  # flat, so that the pipeline runs on from tap to tap
        tap = chunk // CHUNKS
        channel = (chunk % CHUNKS) * BLOCK_R + tl.arange(0, BLOCK_R)
        position = first + tap * DILATION
        inside = position < L
        if PADDED:
            inside = inside & (position >= 0)
        x_mask = inside[None, :]
        w_mask = row_mask[:, None]
        if CIN % BLOCK_R != 0:
            x_mask = x_mask & (channel < CIN)[:, None]
            w_mask = w_mask & (channel < CIN)[None, :]
        x = tl.load(x_sample + channel[:, None] + (position * x_step)[None, :], mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + (channel * K + tap)[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    acc = finished(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        row = row.to(tl.int64)
    y_sample = y_ptr + n * COUT * L_out
    y_mask = row_mask[:, None] & (col < L_out)[None, :]
    tl.store(y_sample + row[:, None] * L_out + col[None, :], acc.to(y_ptr.dtype.element_ty), mask=y_mask)


class ChannelsLast(Kernel):
    """See the module's docstring."""

    name = "channels_last"
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R")
    jit = channels_last_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.layout != "nlc":
            return f"it runs layout=nlc, not layout={problem.layout}"
        return dense_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        rows, columns = tile_sizes(problem.Cout, 256), tile_sizes(problem.L_out, 256)
        for block_co, block_l, block_r in product(rows, columns, depths(problem, problem.Cin)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}
            for num_warps, num_stages in pipelines(problem.K * cdiv(problem.Cin, block_r)):
                config = Config(self.name, tiles, num_warps=num_warps, num_stages=num_stages)
                if fits(self.work(problem, config), config, device):
                    yield config

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (
            problem.N * cdiv(problem.L_out, META["BLOCK_L"]) * cdiv(problem.Cout, META["BLOCK_CO"]),
        )

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        x_batch, _, x_step = x_strides
        x_align = alignment(x_batch, x_step)
        y_align = alignment(problem.L_out)
        return {
            "L": problem.L,
            "L_out_units": problem.L_out // y_align,
            "x_batch_units": x_batch // x_align,
            "x_step_units": x_step // x_align,
            "CIN": problem.Cin,
            "COUT": problem.Cout,
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
        rows, columns, depth = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = problem.K * cdiv(problem.Cin, depth)
        vector = min(16, alignment(problem.Cin) * size)
        return Work(
            order=(
                ("co", cdiv(problem.Cout, rows)),
                ("l", cdiv(problem.L_out, columns)),
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
                    varies=("l", "n"),
                    advance=columns * problem.stride,
                    moves=(("l", columns * problem.stride * problem.Cin), ("n", problem.Cin * problem.L)),
                    lanes_along="reduction",
                    taps=(1, 0),
                    vector_bytes=vector,
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=min(rows, problem.Cout) * problem.reduction,
                    rows=rows,
                    depth=depth,
                    varies=("co",),
                    lane_stride=problem.K,
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("co", "l", "n"),
                vector_bytes=min(16, alignment(problem.L_out) * size),
                moves=(("co", rows * problem.L_out), ("l", columns), ("n", problem.Cout * problem.L_out)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=4.0,
        )


KERNEL = ChannelsLast()
