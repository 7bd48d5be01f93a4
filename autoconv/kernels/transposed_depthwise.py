"""`transposed_depthwise`: a transposed convolution of one input channel a group, on the CUDA cores.

Output o takes input (o + pad_left - tap) / stride of the taps for which that is whole. So the outputs of a
column, `stride` neighbours, take the same inputs, each by taps of its own: a turn of the loop reads x once
and adds it to all of them by `stride` neighbouring taps. Columns start at multiples of the stride whatever
the padding, so that stores are as wide as L_out allows.
"""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.depthwise import Depthwise
from autoconv.kernels.implicit_gemm import Meta, View
from autoconv.kernels.sizes import cdiv, next_power_of_two
from autoconv.kernels.tiles import store_tile
from autoconv.kernels.work import Access, Axis, Work, plain
from autoconv.problem import Problem

MOST_STRIDE = 16  # outputs of a column: they are all in the registers of one thread


@triton.jit
def transposed_depthwise_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L,
    L_out_units,
    x_batch,
    x_channel,
    x_step,
    COUT: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PHASES: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    UNROLL: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    SHIFT: tl.constexpr = PAD_LEFT % STRIDE  # the tap of a column's first output in turn 0
    FIRST_TURN: tl.constexpr = -SHIFT // STRIDE  # -1 where taps lie before that one
    TURNS: tl.constexpr = (K - SHIFT + STRIDE - 1) // STRIDE - FIRST_TURN
    L_out = L_out_units * Y_ALIGN
    tiles_co = tl.cdiv(COUT, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L * STRIDE)
    tile = tl.program_id(0)
    tile_l = tile % tiles_l  # tiles of L come fastest: those of Cout share nothing of x
    tile_co = (tile // tiles_l) % tiles_co
    n = (tile // tiles_l // tiles_co).to(tl.int64)
    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        x_channel = tl.cast(x_channel, tl.int64)  # an argument of 1 is a constant, which has no `to`
    newest = tile_l * BLOCK_L + tl.arange(0, BLOCK_L) + PAD_LEFT // STRIDE - FIRST_TURN * DILATION
    row_mask = row < COUT
    x_rows = x_ptr + n * x_batch + (row // MULTIPLIER) * x_channel
    w_rows = w_ptr + row * K
    phase = tl.arange(0, PHASES)

    even = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    odd = even
    sums = tl.zeros((BLOCK_CO, BLOCK_L, PHASES), dtype=tl.float32)
    for turn in tl.range(0, TURNS, loop_unroll_factor=TURNS if UNROLL else 1):
        position = newest - turn * DILATION
        x_mask = row_mask[:, None] & ((position >= 0) & (position < L))[None, :]
        x = tl.load(x_rows[:, None] + (position * x_step)[None, :], mask=x_mask, other=0.0).to(tl.float32)
        tap = (turn + FIRST_TURN) * STRIDE + SHIFT
        if STRIDE <= 2:  # the general case would send each w through shared memory
            w = tl.load(w_rows + tap, mask=row_mask & (tap >= 0), other=0.0)
            even += w.to(tl.float32)[:, None] * x
        if STRIDE == 2:
            w = tl.load(w_rows + tap + 1, mask=row_mask & (tap + 1 < K), other=0.0)
            odd += w.to(tl.float32)[:, None] * x
        if STRIDE > 2:
            taps = tap + phase
            w_mask = row_mask[:, None] & ((phase < STRIDE) & (taps >= 0) & (taps < K))[None, :]
            w = tl.load(w_rows[:, None] + taps[None, :], mask=w_mask, other=0.0)
            sums += w.to(tl.float32)[:, None, :] * x[:, :, None]

    result = even
    if STRIDE == 2:
        result = tl.reshape(tl.join(even, odd), (BLOCK_CO, BLOCK_L * PHASES))
    if STRIDE > 2:
        result = tl.reshape(sums, (BLOCK_CO, BLOCK_L * PHASES))
    place = tl.arange(0, BLOCK_L * PHASES)
    out = tile_l * (BLOCK_L * STRIDE) + place // PHASES * STRIDE + place % PHASES
    out_mask = (place % PHASES < STRIDE) & (out < L_out)
    store_tile(
        result, b_ptr, y_ptr, n, row, out, row_mask, out_mask, L_out, COUT, HAS_BIAS, ACTIVATION, INDEX_64
    )


class TransposedDepthwise(Depthwise):
    """See the module's docstring."""

    name = "transposed_depthwise"
    jit = transposed_depthwise_kernel
    most_outputs = 32
    address_instructions = 2.0  # two compares each; the turns' offsets are constants

    def refusal(self, problem: Problem) -> str | None:
        if problem.op != "conv_transpose":
            return f"it runs op=conv_transpose, not op={problem.op}"
        if problem.Cin_per_group != 1:
            return f"it runs one input channel a group, not {problem.Cin_per_group}"
        if problem.stride > MOST_STRIDE:
            return f"it runs stride up to {MOST_STRIDE}, not stride={problem.stride}"
        if problem.stride > 1 and problem.dilation > 1 and problem.K > 1:
            return f"it runs dilation={problem.dilation} at stride=1, not stride={problem.stride}"
        return None

    def view(self, problem: Problem, meta: Meta) -> View:  # noqa: ARG002
        stride = problem.stride
        shift = problem.pad_left % stride
        return View(
            rows=problem.Cout,
            columns=cdiv(problem.L_out, stride),
            channels=1,
            taps=cdiv(problem.K - shift, stride) + (shift > 0),  # turns, each of `stride` taps
            column_step=1,
            tap_step=-_apart(problem),
            groups=1,
            run=stride,
        )

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        of_stride = {"PHASES": next_power_of_two(problem.stride), "DILATION": _apart(problem)}
        return {**super().constants(problem), **of_stride}

    def work(self, problem: Problem, config: Config) -> Work:
        work = super().work(problem, config)
        rows, columns = work.tile
        phases = next_power_of_two(problem.stride)
        return replace(work, tile=(rows, columns * phases), flops=work.flops * phases)

    def read_w(self, problem: Problem, meta: Meta) -> Access:
        rows, _, depth = self.block(problem, meta)
        stride = problem.stride
        return self.access(
            problem,
            meta,
            "w",
            columns=plain(rows, problem.K),
            reduction=Axis(depth * stride, stride, 1, stride),
            lanes="reduction",
            moves={"co": rows * problem.K},
            elements=rows * stride * self.view(problem, meta).taps,
            distinct=rows * problem.K,
        )


def _apart(problem: Problem) -> int:
    """Return the input positions from a turn to the next; past stride 1 only a single tap has a dilation."""
    return problem.dilation if problem.stride == 1 else 1


KERNEL = TransposedDepthwise()
