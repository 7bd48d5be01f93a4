"""`depthwise`: one input channel for each output channel, multiplied and added on the CUDA cores.

It is bound by DRAM as long as the taps come out of the L1: rows of channels by columns of L, the taps
unrolled up to UNROLLED of them.
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
from autoconv.kernels.sizes import MAX_INT32, Strides, alignment, cdiv, needs_int64, powers_of_two
from autoconv.kernels.space import tile_sizes
from autoconv.kernels.work import Work, read_w, read_x, window, write_y
from autoconv.problem import Problem

UNROLLED = 31  # taps; beyond, the code grows and the loop costs little beside its body


@triton.jit
def depthwise_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L,
    L_out_units,
    x_batch_units,
    x_channel_units,
    x_step,
    COUT: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PADDED: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    UNROLL: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    tiles_co = tl.cdiv(COUT, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    tile = tl.program_id(0)
    tile_l = tile % tiles_l
    tile_co = (tile // tiles_l) % tiles_co
    n = (tile // tiles_l // tiles_co).to(tl.int64)
    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)
        x_channel = x_channel.to(tl.int64)
    col = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT
    x_rows = x_ptr + n * x_batch_units * X_ALIGN + (row // MULTIPLIER) * x_channel
    w_rows = w_ptr + row * K

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    if UNROLL:
        for tap in tl.static_range(K):
            position = first + tap * DILATION
            x_mask = row_mask[:, None] & (position < L)[None, :]
            if PADDED:
                x_mask = x_mask & (position >= 0)[None, :]
            x = tl.load(x_rows[:, None] + (position * x_step)[None, :], mask=x_mask, other=0.0)
            w = tl.load(w_rows + tap, mask=row_mask, other=0.0)
            acc += w.to(tl.float32)[:, None] * x.to(tl.float32)
    else:
        for tap in range(K):
            position = first + tap * DILATION
            x_mask = row_mask[:, None] & (position < L)[None, :]
            if PADDED:
                x_mask = x_mask & (position >= 0)[None, :]
            x = tl.load(x_rows[:, None] + (position * x_step)[None, :], mask=x_mask, other=0.0)
            w = tl.load(w_rows + tap, mask=row_mask, other=0.0)
            acc += w.to(tl.float32)[:, None] * x.to(tl.float32)

    acc = finished(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        row = row.to(tl.int64)
    y_sample = y_ptr + n * COUT * L_out
    y_mask = row_mask[:, None] & (col < L_out)[None, :]
    tl.store(y_sample + row[:, None] * L_out + col[None, :], acc.to(y_ptr.dtype.element_ty), mask=y_mask)


class Depthwise(Kernel):
    """See the module's docstring."""

    name = "depthwise"
    tiles = ("BLOCK_CO", "BLOCK_L")
    jit = depthwise_kernel

    def unsupported(self, problem: Problem) -> str | None:
        return depthwise_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:  # noqa: ARG002 - fits all
        rows = powers_of_two(1, min(16, problem.Cout))
        columns = tile_sizes(problem.L_out, 1024, least=32)
        for block_co, block_l, num_warps in product(rows, columns, (1, 2, 4, 8)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l}
            config = Config(self.name, tiles, num_warps=num_warps, num_stages=2)
            # Up to 16 outputs a thread: the window of x and the outputs both live in registers.
            outputs = block_co * block_l // (32 * num_warps)
            useful = 1 <= outputs <= 16 and (outputs >= 4 or block_co * block_l < 512)
            if useful and self.grid(problem)(config.meta)[0] <= MAX_INT32:
                yield config

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (
            problem.N * cdiv(problem.Cout, META["BLOCK_CO"]) * cdiv(problem.L_out, META["BLOCK_L"]),
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
            "COUT": problem.Cout,
            "MULTIPLIER": problem.Cout_per_group,
            "K": problem.K,
            "STRIDE": problem.stride,
            "PAD_LEFT": problem.pad_left,
            "PADDED": problem.pad_left > 0,
            "DILATION": problem.dilation,
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "UNROLL": problem.K <= UNROLLED,
            "X_ALIGN": x_align,
            "Y_ALIGN": y_align,
            "INDEX_64": needs_int64(problem),
        }

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = 1 if problem.K <= UNROLLED else problem.K
        return Work(
            order=(
                ("l", cdiv(problem.L_out, columns)),
                ("co", cdiv(problem.Cout, rows)),
                ("n", problem.N),
            ),
            steps=steps,
            flops=2.0 * rows * columns * problem.K,
            reads=(
                read_x(
                    problem,
                    elements=rows * columns * problem.K,
                    positions=window(problem, columns),
                    channels=rows,
                    columns=columns,
                    depth=rows * problem.K // steps,
                    varies=("l", "co", "n"),
                    advance=columns * problem.stride,
                    moves=(("l", columns * problem.stride), ("n", problem.Cin * problem.L)),
                    vector_bytes=x_vector_bytes(problem),
                ),
                read_w(
                    problem,
                    elements=rows * problem.K,
                    distinct=rows * problem.K,
                    rows=rows,
                    depth=problem.K // steps,
                    varies=("co",),
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
            stage_bytes_by_operand=(0, 0),
            address_instructions=1.0,  # a compare each; the taps' offsets are constants
            tensor_cores=False,
        )


def depthwise_only(problem: Problem) -> str | None:
    """Return why a depthwise kernel cannot run `problem`, or None where it can."""
    if problem.Cin_per_group != 1:
        return f"it runs one input channel a group, not {problem.Cin_per_group}"
    return forward_only(problem)


KERNEL = Depthwise()
