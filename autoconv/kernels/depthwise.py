"""`depthwise`: one input channel for each output channel, multiplied and added on the CUDA cores.

It is bound by DRAM as long as the taps come out of the L1: rows of channels by columns of L, the taps
unrolled up to UNROLLED of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from autoconv.device import Device
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.cuda_cores import OnCudaCores
from autoconv.kernels.implicit_gemm import Meta, View
from autoconv.kernels.sizes import x_strides_of
from autoconv.kernels.tiles import first_positions, store_tile, within
from autoconv.kernels.work import Access, Axis, plain
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
    first = first_positions(col, STRIDE, PAD_LEFT)
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
    most_rows = 64
    most_outputs = 16
    address_instructions = 1.0  # a compare each; the taps' offsets are constants

    def refusal(self, problem: Problem) -> str | None:
        return depthwise_only(problem)

    def view(self, problem: Problem, meta: Meta) -> View:
        return replace(super().view(problem, meta), rows=problem.Cout, channels=1, groups=1)

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        unroll = self.view(problem, {}).taps <= UNROLLED
        return {"MULTIPLIER": problem.Cout_per_group, "UNROLL": unroll}

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:
        # Where channels are neighbours in x, a warp reads as many of them as fill its lines.
        most = 64 if channels_adjoin(problem) else 16
        return (meta for meta in super().tilings(problem, device) if meta["BLOCK_CO"] <= most)

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        x, w, y = super().vectors(problem)
        # A step along L is a plain argument: Triton knows whether 16 divides it, and no more.
        wide = channels_adjoin(problem) and problem.Cin % 16 == 0
        return 16 if wide else x, w, y

    def block(self, problem: Problem, meta: Meta) -> tuple[int, int, int]:
        taps = self.view(problem, meta).taps
        return meta["BLOCK_CO"], meta["BLOCK_L"], taps if taps <= UNROLLED else 1

    def read_x(self, problem: Problem, meta: Meta) -> Access:
        rows, columns, depth = self.block(problem, meta)
        view = self.view(problem, meta)
        batch, channel, position = x_strides_of(problem)
        reach = (columns - 1) * view.column_step + (view.taps - 1) * abs(view.tap_step) + 1
        access = self.access(
            problem,
            meta,
            "x",
            columns=plain(columns, view.column_step * position),
            reduction=Axis(rows * depth, rows, channel, view.tap_step * position),
            lanes="reduction" if channels_adjoin(problem) else "columns",
            moves={
                "l": columns * view.column_step * position,
                "co": rows // problem.Cout_per_group * channel,
                "n": batch,
            },
            elements=rows * columns * view.taps,
            distinct=min(reach, problem.L) * min(rows, problem.Cin),
            overlap=max(0.0, 1 - columns * view.column_step / reach),
        )
        widest = rows * problem.dtype_bytes if channels_adjoin(problem) else 16
        return replace(access, vector_bytes=min(access.vector_bytes, widest))


def channels_adjoin(problem: Problem) -> bool:
    """Return whether neighbouring rows of a tile are neighbours in x, which Triton then reads it along."""
    return problem.layout == "nlc" and problem.Cout_per_group == 1


def depthwise_only(problem: Problem) -> str | None:
    """Return why a depthwise kernel cannot run `problem`, or None where it can."""
    if problem.op != "conv":
        return f"it runs op=conv, not op={problem.op}"
    if problem.Cin_per_group != 1:
        return f"it runs one input channel a group, not {problem.Cin_per_group}"
    return None


KERNEL = Depthwise()
