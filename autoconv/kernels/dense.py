"""`dense`: an implicit GEMM with rows of Cout by columns of L, any K, stride, dilation and padding.

The reduction runs over (channel, tap) with the tap fastest, which is the memory order of a torch weight
(Cout, Cin, K): the weight tile is then a plain row-major matrix, read with the widest loads and never
repacked, and neighbouring taps of one channel are read by the same load instruction, so L1 serves them.
A column tile stays inside one sample, and its stores run along L.
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
def dense_kernel(
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
    REDUCTION: tl.constexpr = CIN * K
    # Lengths come in units of their largest power-of-two divisor: Triton specialises integer arguments
    # on divisibility by 16 alone, and the product with a constexpr restores what a multiple of 8 allows.
    L_out = L_out_units * Y_ALIGN
    tiles_co = tl.cdiv(COUT, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    tile = tl.program_id(0)
    # Tiles of Cout come fastest, so the blocks that share a window of x run side by side.
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)

    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    col = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT

    x_channel = x_channel_units * X_ALIGN
    if INDEX_64:
        x_channel = x_channel.to(tl.int64)
    x_sample = x_ptr + n * x_batch_units * X_ALIGN
    w_rows = w_ptr + row * REDUCTION

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        position = first[None, :] + ((r % K) * DILATION)[:, None]
        x_mask = position < L
        if PADDED:
            x_mask = x_mask & (position >= 0)
        w_mask = row_mask[:, None]
        if REDUCTION % BLOCK_R != 0:
            x_mask = x_mask & (r < REDUCTION)[:, None]
            w_mask = w_mask & (r < REDUCTION)[None, :]
        x = tl.load(x_sample + ((r // K) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    acc = finished(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        row = row.to(tl.int64)
    y_sample = y_ptr + n * COUT * L_out
    y_mask = row_mask[:, None] & (col < L_out)[None, :]
    tl.store(y_sample + row[:, None] * L_out + col[None, :], acc.to(y_ptr.dtype.element_ty), mask=y_mask)


class Dense(Kernel):
    """See the module's docstring."""

    name = "dense"
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R")
    jit = dense_kernel

    def unsupported(self, problem: Problem) -> str | None:
        return dense_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        rows, columns = tile_sizes(problem.Cout, 256), tile_sizes(problem.L_out, 256)
        for block_co, block_l, block_r in product(rows, columns, depths(problem, problem.reduction)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}
            for num_warps, num_stages in pipelines(cdiv(problem.reduction, block_r)):
                config = Config(self.name, tiles, num_warps=num_warps, num_stages=num_stages)
                if fits(self.work(problem, config), config, device):
                    yield config

    def grid(self, problem: Problem) -> Grid:
        # One axis: samples, windows of L and tiles of Cout are independent, and only axis x reaches past
        # 65535, which both L / BLOCK_L and N can pass.
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
        steps = cdiv(problem.reduction, depth)
        w_vector = min(16, alignment(problem.reduction) * size)
        y_vector = min(16, alignment(problem.L_out) * size)
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
                    moves=(("l", columns * problem.stride), ("n", problem.Cin * problem.L)),
                    vector_bytes=x_vector_bytes(problem),
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=min(rows, problem.Cout) * problem.reduction,
                    rows=rows,
                    depth=depth,
                    varies=("co",),
                    vector_bytes=w_vector,
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("co", "l", "n"),
                vector_bytes=y_vector,
                moves=(("co", rows * problem.L_out), ("l", columns), ("n", problem.Cout * problem.L_out)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            # In the SASS of the 128x128x16 tile for sm_89: about 70 integer instructions a thread and step
            # for 8 elements of x, the weight's share included.
            address_instructions=8.0,
        )


def x_vector_bytes(problem: Problem) -> int:
    """Return the widest load of x along its positions, in bytes, that every tap of the problem allows."""
    if problem.layout == "nlc" or problem.stride > 1:
        return problem.dtype_bytes
    tap_offset = problem.dilation if problem.K > 1 else 16
    aligned = alignment(problem.L, problem.Cin * problem.L, tap_offset, problem.pad_left)
    return min(16, aligned * problem.dtype_bytes)


KERNEL = Dense()
