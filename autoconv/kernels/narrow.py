"""`narrow`: few input or few output channels, as rank-1 updates on the CUDA cores.

A first layer (Cin * K small) writes far more than it reads, a last layer (few output channels) reads far more
than it writes; padding either to a tensor-core tile would multiply the products by up to 16. Here every
(channel, tap) adds the product of one column of the weight with one row of x.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autoconv.kernels.cuda_cores import OnCudaCores
from autoconv.kernels.tiles import store_tile, tile_of, within
from autoconv.problem import Problem

FEW_OUTPUTS = 8  # output channels up to which half of the smallest tensor-core tile is padding
FEW_INPUTS = 128  # Cin * K up to which a layer is bound by its writes


@triton.jit
def narrow_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
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
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    if INDEX_64:
        x_channel = x_channel.to(tl.int64)
    row, col, n = tile_of(COUT, L_out, BLOCK_CO, BLOCK_L, INDEX_64)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT
    x_sample = x_ptr + n * x_batch_units * X_ALIGN
    w_rows = w_ptr + row * (CIN * K)

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r in range(CIN * K):
        position = first + (r % K) * DILATION
        inside = within(position, L, PADDED)
        x = tl.load(x_sample + (r // K) * x_channel + position * x_step, mask=inside, other=0.0)
        w = tl.load(w_rows + r, mask=row_mask, other=0.0)
        acc += w.to(tl.float32)[:, None] * x.to(tl.float32)[None, :]

    store_tile(
        acc, b_ptr, y_ptr, n, row, col, row_mask, col < L_out, L_out, COUT, HAS_BIAS, ACTIVATION, INDEX_64
    )


class Narrow(OnCudaCores):
    """See the module's docstring."""

    name = "narrow"
    jit = narrow_kernel
    most_rows = 64  # a thread's x is used for each of its rows of outputs, so all of a small Cout is best
    most_outputs = 64
    address_instructions = 3.0  # an add, a compare and the conversion

    def refusal(self, problem: Problem) -> str | None:
        if problem.Cout > FEW_OUTPUTS and problem.reduction > FEW_INPUTS:
            few = f"Cout <= {FEW_OUTPUTS} or Cin * K <= {FEW_INPUTS}"
            return f"it runs {few}, not Cout={problem.Cout}, Cin * K = {problem.reduction}"
        return super().refusal(problem)


KERNEL = Narrow()
