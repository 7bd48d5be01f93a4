"""`transposed_phases`: a transposed convolution as `stride` ordinary ones, one for each phase of the output.

Output o lies in phase (o + pad_left) % stride, and all outputs of a phase use the same taps: with
g = gcd(stride, dilation), phases that g does not divide have none (they get the bias alone), the others
every (stride / g)-th tap from a first one. Within a phase this is a convolution of stride 1 whose window
steps back by dilation / g. Every output is written by exactly one program; there are no atomics.
"""

from __future__ import annotations

import math
from dataclasses import replace

import triton
import triton.language as tl

from autoconv.kernels.implicit_gemm import Meta, View
from autoconv.kernels.tiles import store_tile, tile_of
from autoconv.kernels.transposed import ByPhase
from autoconv.problem import Problem


@triton.jit
def transposed_phases_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L,
    L_out,
    x_batch,
    x_channel,
    x_step,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    COUT: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    DILATION: tl.constexpr,
    GCD: tl.constexpr,
    INVERSE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    TAP_STEP: tl.constexpr = STRIDE // GCD
    TAPS: tl.constexpr = (K + TAP_STEP - 1) // TAP_STEP  # of one phase, the last perhaps past K
    REDUCTION: tl.constexpr = CIN_G * TAPS
    phase = tl.program_id(1)
    group = tl.program_id(2)
    columns = tl.cdiv(L_out, STRIDE)  # of a phase, the last perhaps past L_out
    if INDEX_64:
        x_channel = x_channel.to(tl.int64)
    row, col, n = tile_of(COUT_G, columns, BLOCK_CO, BLOCK_L, INDEX_64)
    row_mask = row < COUT_G
    # o + PAD_LEFT = phase + STRIDE * m, and o >= 0
    first_m = tl.maximum(PAD_LEFT - phase + STRIDE - 1, 0) // STRIDE
    m = first_m + col
    first_tap = (phase // GCD * INVERSE) % TAP_STEP
    behind = (first_tap * DILATION - phase) // STRIDE  # exact where the phase has taps
    x_group = x_ptr + n * x_batch + group * CIN_G * x_channel
    w_rows = w_ptr + (group * CIN_G * COUT_G + row) * K

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    if phase % GCD == 0:
        for r0 in range(0, REDUCTION, BLOCK_R):
            r = r0 + tl.arange(0, BLOCK_R)
            tap = first_tap + (r % TAPS) * TAP_STEP
            r_mask = (r < REDUCTION) & (tap < K)
            position = (m - behind)[None, :] - ((r % TAPS) * (DILATION // GCD))[:, None]
            x_mask = r_mask[:, None] & (position >= 0) & (position < L)
            x = tl.load(
                x_group + ((r // TAPS) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0
            )
            w_offset = (r // TAPS) * (COUT_G * K) + tap
            w = tl.load(
                w_rows[:, None] + w_offset[None, :], mask=row_mask[:, None] & r_mask[None, :], other=0.0
            )
            acc = tl.dot(w, x, acc, input_precision=PRECISION)

    out = phase + STRIDE * m - PAD_LEFT
    store_tile(
        acc, b_ptr, y_ptr, n, group * COUT_G + row, out, row_mask, out < L_out, L_out, COUT,
        HAS_BIAS, ACTIVATION, INDEX_64,
    )  # fmt: skip


class TransposedPhases(ByPhase):
    """See the module's docstring."""

    name = "transposed_phases"
    jit = transposed_phases_kernel
    raster = (("co", "l", "n"), ("phase",), ("group",))
    most_rows = 128

    def view(self, problem: Problem, meta: Meta) -> View:
        busy = problem.stride // math.gcd(problem.stride, problem.dilation)
        return replace(
            super().view(problem, meta),
            phases=problem.stride,
            idle_phases=problem.stride - busy,
            out_step=problem.stride,
        )


KERNEL = TransposedPhases()
