"""`narrow`: few input or few output channels, as rank-1 updates on the CUDA cores.

A first layer (Cin * K small) writes far more than it reads, a last layer (few output channels) reads far more
than it writes; padding either to a tensor-core tile would multiply the products by up to 16. Here every
(channel, tap) adds the product of one column of the weight with one row of x.
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
from autoconv.kernels.sizes import (
    MAX_INT32,
    Strides,
    alignment,
    cdiv,
    needs_int64,
    next_power_of_two,
    powers_of_two,
)
from autoconv.kernels.space import tile_sizes
from autoconv.kernels.work import Work, read_w, read_x, window, write_y
from autoconv.problem import Problem

FEW_OUTPUTS = 8  # output channels up to which half of the smallest tensor-core tile is padding
FEW_INPUTS = 128  # Cin * K up to which a layer is bound by its writes


@triton.jit
def narrow_kernel(
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
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)
        x_channel = x_channel.to(tl.int64)
    col = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT
    x_sample = x_ptr + n * x_batch_units * X_ALIGN
    w_rows = w_ptr + row * (CIN * K)

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r in range(CIN * K):
        position = first + (r % K) * DILATION
        inside = position < L
        if PADDED:
            inside = inside & (position >= 0)
        x = tl.load(x_sample + (r // K) * x_channel + position * x_step, mask=inside, other=0.0)
        w = tl.load(w_rows + r, mask=row_mask, other=0.0)
        acc += w.to(tl.float32)[:, None] * x.to(tl.float32)[None, :]

    acc = finished(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        row = row.to(tl.int64)
    y_sample = y_ptr + n * COUT * L_out
    y_mask = row_mask[:, None] & (col < L_out)[None, :]
    tl.store(y_sample + row[:, None] * L_out + col[None, :], acc.to(y_ptr.dtype.element_ty), mask=y_mask)


class Narrow(Kernel):
    """See the module's docstring."""

    name = "narrow"
    tiles = ("BLOCK_CO", "BLOCK_L")
    jit = narrow_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.Cout > FEW_OUTPUTS and problem.reduction > FEW_INPUTS:
            few = f"Cout <= {FEW_OUTPUTS} or Cin * K <= {FEW_INPUTS}"
            return f"it runs {few}, not Cout={problem.Cout}, Cin * K = {problem.reduction}"
        return dense_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:  # noqa: ARG002 - fits all
        rows = powers_of_two(1, min(64, next_power_of_two(problem.Cout)))
        columns = tile_sizes(problem.L_out, 1024, least=32)
        for block_co, block_l, num_warps in product(rows, columns, (1, 2, 4, 8)):
            config = Config(self.name, {"BLOCK_CO": block_co, "BLOCK_L": block_l}, num_warps, num_stages=2)
            outputs = block_co * block_l // (32 * num_warps)
            # A thread's row of x is used for each of its rows of outputs, so all of a small Cout is best.
            useful = 1 <= outputs <= 64 and (outputs >= 4 or block_co * block_l < 512)
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
            "CIN": problem.Cin,
            "COUT": problem.Cout,
            "K": problem.K,
            "STRIDE": problem.stride,
            "PAD_LEFT": problem.pad_left,
            "PADDED": problem.pad_left > 0,
            "DILATION": problem.dilation,
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "X_ALIGN": x_align,
            "Y_ALIGN": y_align,
            "INDEX_64": needs_int64(problem),
        }

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        reduction = problem.reduction
        return Work(
            order=(
                ("co", cdiv(problem.Cout, rows)),
                ("l", cdiv(problem.L_out, columns)),
                ("n", problem.N),
            ),
            steps=reduction,
            flops=2.0 * rows * columns * reduction,
            reads=(
                read_x(
                    problem,
                    elements=columns * reduction,
                    positions=window(problem, columns),
                    channels=problem.Cin,
                    columns=columns,
                    depth=1,
                    varies=("l", "n"),
                    advance=columns * problem.stride,
                    moves=(("l", columns * problem.stride), ("n", problem.Cin * problem.L)),
                    vector_bytes=x_vector_bytes(problem),
                ),
                read_w(
                    problem,
                    elements=rows * reduction,
                    distinct=rows * reduction,
                    rows=rows,
                    depth=1,
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
            address_instructions=3.0,  # an add, a compare and the conversion
            tensor_cores=False,
        )


KERNEL = Narrow()
