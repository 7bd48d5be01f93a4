"""`depthwise`: one input channel for each output channel, multiplied and added on the CUDA cores.

It is bound by DRAM as long as the taps come out of the L1: rows of channels by columns of L, the taps
unrolled up to UNROLLED of them.
"""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from autoconv.kernels.bindings import Scalar
from autoconv.kernels.cuda_cores import OnCudaCores
from autoconv.kernels.implicit_gemm import Meta, View
from autoconv.kernels.sizes import x_strides_of
from autoconv.kernels.tiles import store_tile, within
from autoconv.kernels.work import Access, Axis, plain, window
from autoconv.problem import Problem

UNROLLED = 31  # taps; beyond, the code grows and the loop costs little beside its body


@triton.jit
def depthwise_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L_units,
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
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    tiles_co = tl.cdiv(COUT, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    tile = tl.program_id(0)
    tile_l = tile % tiles_l  # tiles of L come fastest: those of Cout share nothing of x
    tile_co = (tile // tiles_l) % tiles_co
    n = (tile // tiles_l // tiles_co).to(tl.int64)
    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
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
            x_mask = row_mask[:, None] & within(position, L, PADDED)[None, :]
            x = tl.load(x_rows[:, None] + (position * x_step)[None, :], mask=x_mask, other=0.0)
            w = tl.load(w_rows + tap, mask=row_mask, other=0.0)
            acc += w.to(tl.float32)[:, None] * x.to(tl.float32)
    else:
        for tap in range(K):
            position = first + tap * DILATION
            x_mask = row_mask[:, None] & within(position, L, PADDED)[None, :]
            x = tl.load(x_rows[:, None] + (position * x_step)[None, :], mask=x_mask, other=0.0)
            w = tl.load(w_rows + tap, mask=row_mask, other=0.0)
            acc += w.to(tl.float32)[:, None] * x.to(tl.float32)

    store_tile(
        acc, b_ptr, y_ptr, n, row, col, row_mask, col < L_out, L_out, COUT, HAS_BIAS, ACTIVATION, INDEX_64
    )


class Depthwise(OnCudaCores):
    """See the module's docstring."""

    name = "depthwise"
    jit = depthwise_kernel
    raster = (("l", "co", "n"),)
    most_rows = 16
    most_outputs = 16
    address_instructions = 1.0  # a compare each; the taps' offsets are constants

    def refusal(self, problem: Problem) -> str | None:
        return depthwise_only(problem)

    def view(self, problem: Problem, meta: Meta) -> View:
        return replace(super().view(problem, meta), rows=problem.Cout, groups=1)

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        return {"MULTIPLIER": problem.Cout_per_group, "UNROLL": problem.K <= UNROLLED}

    def block(self, problem: Problem, meta: Meta) -> tuple[int, int, int]:
        return meta["BLOCK_CO"], meta["BLOCK_L"], problem.K if problem.K <= UNROLLED else 1

    def read_x(self, problem: Problem, meta: Meta) -> Access:
        rows, columns, taps = self.block(problem, meta)
        batch, channel, position = x_strides_of(problem)
        return self.access(
            problem,
            meta,
            "x",
            columns=plain(columns, problem.stride * position),
            reduction=Axis(rows * taps, rows, channel, problem.dilation * position),
            lanes="columns",
            moves={
                "l": columns * problem.stride * position,
                "co": rows // problem.Cout_per_group * channel,
                "n": batch,
            },
            elements=rows * columns * problem.K,
            distinct=min(window(problem, columns), problem.L) * min(rows, problem.Cin),
            overlap=max(0.0, 1 - columns * problem.stride / window(problem, columns)),
        )


def depthwise_only(problem: Problem) -> str | None:
    """Return why a depthwise kernel cannot run `problem`, or None where it can."""
    if problem.op != "conv":
        return f"it runs op=conv, not op={problem.op}"
    if problem.Cin_per_group != 1:
        return f"it runs one input channel a group, not {problem.Cin_per_group}"
    return None


KERNEL = Depthwise()
