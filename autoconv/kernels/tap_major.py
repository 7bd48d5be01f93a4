"""`tap_major`: stride 1, the main loop running over all channels of a tap before the next; packed weights.

Within a tap neither the weight nor x needs a division: `dense` works out the channel, the tap and the bounds
of every row of its tile anew in each step, which on an H200 takes longer than the products. A first launch
copies the weight to (K, Cout, Cin), whose rows are then read as widely as Cin allows. The copy is made in
each call, so that it is never stale; it is as large as the weight. A transposed convolution of stride 1 is an
ordinary one with its taps in reverse and other padding, which costs nothing more here.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.kernels.across import AcrossSamples, inside_sample, store_across, tile_across
from autoconv.kernels.base import OPTIONS, Launch
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.implicit_gemm import View
from autoconv.kernels.sizes import Strides, alignment, cdiv
from autoconv.kernels.tiles import side_by_side
from autoconv.problem import Problem

PACKED_BLOCK = 1024  # elements of the weight that one block copies


@triton.jit
def pack_kernel(
    w_ptr,
    scratch_ptr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    K: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy a weight (COUT, CIN, K) to (K, COUT, CIN); or (CIN, COUT, K), its taps in reverse."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < CIN * COUT * K
    tap, row, channel = i // (CIN * COUT), i // CIN % COUT, i % CIN
    straight, reverse = (row * CIN + channel) * K + tap, (channel * COUT + row) * K + (K - 1 - tap)
    offset = reverse if TRANSPOSED else straight
    packed_ptr = scratch_ptr.to(tl.pointer_type(w_ptr.dtype.element_ty), bitcast=True)
    tl.store(packed_ptr + i, tl.load(w_ptr + offset, mask=mask), mask=mask)


@triton.jit
def tap_major_kernel(
    x_ptr,
    scratch_ptr,
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
    STEPS: tl.constexpr = (CIN + BLOCK_R - 1) // BLOCK_R  # of one tap
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    row, sample, col, col_mask = tile_across(COUT, N, L_out, BLOCK_CO, BLOCK_L, Y_ALIGN, INDEX_64)
    row_mask = row < COUT
    first = col - PAD_LEFT
    x_offset = sample * x_batch_units * X_ALIGN + first * x_step
    if SCATTERED:
        x_offset = side_by_side(x_offset)
    x_columns = x_ptr + x_offset
    w_rows = scratch_ptr.to(tl.pointer_type(x_ptr.dtype.element_ty), bitcast=True) + row * CIN

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for step in range(0, K * STEPS):
        tap = step // STEPS
        channel = (step % STEPS) * BLOCK_R + tl.arange(0, BLOCK_R)
        x_mask = inside_sample(first + tap * DILATION, L, PADDED, PADDED_RIGHT)[None, :]
        w_mask = row_mask[:, None]
        if CIN % BLOCK_R != 0:
            x_mask = x_mask & (channel < CIN)[:, None]
            w_mask = w_mask & (channel < CIN)[None, :]
        w = tl.load(w_rows[:, None] + (tap * (COUT * CIN) + channel)[None, :], mask=w_mask, other=0.0)
        if INDEX_64:
            channel = channel.to(tl.int64)
        offset = channel * x_channel + tap * DILATION * x_step
        x = tl.load(x_columns[None, :] + offset[:, None], mask=x_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    store_across(
        acc, b_ptr, y_ptr, row, sample, col, row_mask, col_mask, L_out, COUT, HAS_BIAS, ACTIVATION, Y_ALIGN
    )


class TapMajor(AcrossSamples):
    """See the module's docstring."""

    name = "tap_major"
    jit = tap_major_kernel
    tensors = ("x", "partials", "b", "y")
    tap_outermost = True
    address_instructions = 3.0  # no division, and the bounds are those of a column

    def refusal(self, problem: Problem) -> str | None:
        if problem.op == "conv_weight":
            return "it runs op=conv and op=conv_transpose, not op=conv_weight"
        if problem.stride != 1:
            return f"it runs stride=1, not stride={problem.stride}"
        if problem.K == 1:
            return "it runs K of 2 or more: with K=1 there is nothing to pack"
        return None if problem.groups == 1 else f"it runs groups=1, not groups={problem.groups}"

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        left, span = problem.pad_left, problem.dilation * (problem.K - 1)
        if problem.op == "conv_transpose":
            left = span - left
        last = problem.L_out - 1 - left + span  # position that the last output's last tap reads
        padding = {"PAD_LEFT": left, "PADDED": left > 0, "PADDED_RIGHT": last >= problem.L}
        return {**super().constants(problem), **padding}

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        x, _, y = super().vectors(problem)
        return x, min(16, alignment(problem.Cin) * problem.dtype_bytes), y

    def w_strides(self, problem: Problem, view: View) -> tuple[int, int, int, int]:  # noqa: ARG002
        return 0, problem.Cin, 1, problem.Cout * problem.Cin  # packed, and of one group

    def workspace(self, problem: Problem, config: Config) -> int:  # noqa: ARG002
        return cdiv(math.prod(problem.w_shape) * problem.dtype_bytes, 4)

    def launches(
        self, problem: Problem, config: Config, x_strides: Strides | None = None
    ) -> tuple[Launch, ...]:
        return _pack(problem), *super().launches(problem, config, x_strides)


def _pack(problem: Problem) -> Launch:
    """Return the launch that packs the weight."""
    keywords = {
        "CIN": problem.Cin,
        "COUT": problem.Cout,
        "K": problem.K,
        "TRANSPOSED": problem.op == "conv_transpose",
        "BLOCK": PACKED_BLOCK,
        "num_warps": 4,
        "num_stages": 2,
        **OPTIONS,
    }
    blocks = cdiv(math.prod(problem.w_shape), PACKED_BLOCK)
    return Launch(pack_kernel, ("w", "partials"), (blocks, 1, 1), keywords)


KERNEL = TapMajor()
