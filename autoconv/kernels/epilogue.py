"""The end that all kernels share: bias and activation on the float32 accumulator."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activated(value, ACTIVATION: tl.constexpr):
    """Return the activation of float32 values, as torch.nn.functional defines it; NaN stays NaN."""
    if ACTIVATION == "relu":
        value = tl.where(value < 0, 0.0, value)
    elif ACTIVATION == "leaky_relu":
        value = tl.where(value < 0, value * 0.01, value)
    elif ACTIVATION == "silu":
        value = value * tl.sigmoid(value)
    elif ACTIVATION == "gelu":
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif ACTIVATION == "tanh":
        # 2 sigmoid(2 v) - 1 cancels near 0; there the series, up to v**7, is exact to float32.
        square = value * value
        series = value * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
        value = tl.where(tl.abs(value) < 0.1, series, 2 * tl.sigmoid(2 * value) - 1)
    return value


@triton.jit
def finished(acc, b_ptr, row, row_mask, HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr):
    """Return acc (rows, columns) with the bias of its rows added, activated."""
    if HAS_BIAS:
        acc += tl.load(b_ptr + row, mask=row_mask, other=0.0).to(tl.float32)[:, None]
    return activated(acc, ACTIVATION)
