"""`dense`: an implicit GEMM with rows of Cout by columns of L, any K, stride, dilation and padding.

The reduction runs over (channel, tap) with the tap fastest, which is the memory order of a torch weight
(Cout, Cin, K): the weight tile is then a plain row-major matrix, read with the widest loads and never
repacked, and neighbouring taps of one channel are read by the same load instruction, so L1 serves them.
Columns run on from one sample into the next (`columns_across`), so short samples fill the tiles like long
ones, and its stores run along L.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autoconv.kernels.across import AcrossSamples, inside_sample, store_across, tile_across
from autoconv.kernels.tiles import side_by_side


@triton.jit
def dense_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    N,
    L_units,
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
    PADDED_RIGHT: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    SCATTERED: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    REDUCTION: tl.constexpr = CIN * K
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    row, sample, col, col_mask = tile_across(COUT, N, L_out, BLOCK_CO, BLOCK_L, Y_ALIGN, INDEX_64)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT
    x_offset = sample * x_batch_units * X_ALIGN + first * x_step
    if SCATTERED:
        x_offset = side_by_side(x_offset)
    x_columns = x_ptr + x_offset
    w_rows = w_ptr + row * REDUCTION

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        channel, shift = r // K, (r % K) * DILATION
        if INDEX_64:
            channel = channel.to(tl.int64)
        x_mask = inside_sample(first[None, :] + shift[:, None], L, PADDED, PADDED_RIGHT)
        w_mask = row_mask[:, None]
        if REDUCTION % BLOCK_R != 0:
            x_mask = x_mask & (r < REDUCTION)[:, None]
            w_mask = w_mask & (r < REDUCTION)[None, :]
        offset = channel * x_channel + shift * x_step
        x = tl.load(x_columns[None, :] + offset[:, None], mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    store_across(
        acc, b_ptr, y_ptr, row, sample, col, row_mask, col_mask, L_out, COUT, HAS_BIAS, ACTIVATION, Y_ALIGN
    )


class Dense(AcrossSamples):
    """See the module's docstring."""

    name = "dense"
    jit = dense_kernel


KERNEL = Dense()
