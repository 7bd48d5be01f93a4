"""`channels_last`: x with its channels side by side in memory, as a transposed view has them.

The reduction runs over (tap, channel) with the channel fastest: a tile of x is then read along the channels,
16 bytes at a time whatever stride, dilation and tap. x is taken by its strides, so nothing is copied.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autoconv.kernels.implicit_gemm import ImplicitGemm
from autoconv.kernels.sizes import alignment
from autoconv.kernels.tiles import store_tile, tile_of, within
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
    if INDEX_64:
        x_step = x_step.to(tl.int64)
    row, col, n = tile_of(COUT, L_out, BLOCK_CO, BLOCK_L, INDEX_64)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT
    x_sample = x_ptr + n * x_batch_units * X_ALIGN
    w_rows = w_ptr + row * (CIN * K)

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for chunk in range(CHUNKS * K):  # flat, so that the pipeline runs on from tap to tap
        tap = chunk // CHUNKS
        channel = (chunk % CHUNKS) * BLOCK_R + tl.arange(0, BLOCK_R)
        position = first + tap * DILATION
        x_mask = within(position, L, PADDED)[None, :]
        w_mask = row_mask[:, None]
        if CIN % BLOCK_R != 0:
            x_mask = x_mask & (channel < CIN)[:, None]
            w_mask = w_mask & (channel < CIN)[None, :]
        x = tl.load(x_sample + channel[:, None] + (position * x_step)[None, :], mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + (channel * K + tap)[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    store_tile(
        acc, b_ptr, y_ptr, n, row, col, row_mask, col < L_out, L_out, COUT, HAS_BIAS, ACTIVATION, INDEX_64
    )


class ChannelsLast(ImplicitGemm):
    """See the module's docstring."""

    name = "channels_last"
    jit = channels_last_kernel
    tap_outermost = True

    def refusal(self, problem: Problem) -> str | None:
        if problem.layout != "nlc":
            return f"it runs layout=nlc, not layout={problem.layout}"
        return super().refusal(problem)

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        # w lies K elements from channel to channel.
        size = problem.dtype_bytes
        w = min(16, alignment(problem.Cin) * size) if problem.K == 1 else size
        return min(16, alignment(problem.Cin) * size), w, super().vectors(problem)[2]


KERNEL = ChannelsLast()
