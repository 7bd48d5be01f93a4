"""`grouped_channels_last`: groups of 8 input channels or more, x with its channels side by side in memory.

A step of the main loop covers a square of CHANNELS channels by BLOCK_R / CHANNELS taps. So both operands are
read by 16 bytes: x along the channels, where a group has too few of them to fill a step, and the weight along
its taps, whose order is then turned round in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.errors import ConfigError
from autoconv.kernels.across import AcrossSamples, store_across, tile_across
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.implicit_gemm import Meta
from autoconv.kernels.sizes import alignment, cdiv, columns_need_int64, next_power_of_two, x_strides_of
from autoconv.kernels.space import LEAST_DOT
from autoconv.kernels.work import Access, Axis, Work, plain
from autoconv.problem import Problem

LEAST_CHANNELS = 8  # of a group: 16 bytes of half precision
MOST_ACCUMULATORS = 64
"""Of a thread, which turns its part of the weight round in its registers: 128, float16, spilled 312 bytes."""


@triton.jit
def grouped_channels_last_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    N,
    L,
    L_out_units,
    x_batch_units,
    x_step_units,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    COUT: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
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
    CHANNELS: tl.constexpr,
):
    TAPS: tl.constexpr = BLOCK_R // CHANNELS  # of a step
    OF_CHANNELS: tl.constexpr = (K + TAPS - 1) // TAPS  # steps
    STEPS: tl.constexpr = OF_CHANNELS * ((CIN_G + CHANNELS - 1) // CHANNELS)
    L_out = L_out_units * Y_ALIGN
    x_step = x_step_units * X_ALIGN
    group = tl.program_id(1)
    row, sample, col, col_mask = tile_across(COUT_G, N, L_out, BLOCK_CO, BLOCK_L, Y_ALIGN, INDEX_64)
    row_mask = row < COUT_G
    if INDEX_64:
        x_step = tl.cast(x_step, tl.int64)
        L_out = tl.cast(L_out, tl.int64)
    first = col * STRIDE - PAD_LEFT
    L = tl.where(col_mask, L, 0)
    x_columns = x_ptr + (sample * x_batch_units * X_ALIGN + first * x_step) + group * CIN_G
    w_rows = w_ptr + (group * COUT_G + row) * (CIN_G * K)
    of_tap = tl.arange(0, BLOCK_R) // CHANNELS
    of_channel = tl.arange(0, BLOCK_R) % CHANNELS

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for step in range(0, STEPS):
        first_tap = step % OF_CHANNELS * TAPS
        first_channel = step // OF_CHANNELS * CHANNELS
        shift = (first_tap + of_tap) * DILATION
        position = first[None, :] + shift[:, None]
        x_mask = (position >= 0) & (position < L[None, :])
        w_mask = row_mask[:, None, None]
        if CIN_G % CHANNELS != 0:
            x_mask = x_mask & (first_channel + of_channel < CIN_G)[:, None]
            w_mask = w_mask & (first_channel + tl.arange(0, CHANNELS) < CIN_G)[None, :, None]
        if K % TAPS != 0:
            x_mask = x_mask & (first_tap + of_tap < K)[:, None]
            w_mask = w_mask & (first_tap + tl.arange(0, TAPS) < K)[None, None, :]
        offset = first_channel + of_channel + shift * x_step
        x = tl.load(x_columns[None, :] + offset[:, None], mask=x_mask, other=0.0)
        in_row = (
            (first_channel + tl.arange(0, CHANNELS))[:, None] * K + first_tap + tl.arange(0, TAPS)[None, :]
        )
        w = tl.load(w_rows[:, None, None] + in_row[None, :, :], mask=w_mask, other=0.0)
        w = tl.reshape(tl.permute(w, (0, 2, 1)), (BLOCK_CO, BLOCK_R))
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    channel_out = group * COUT_G + row
    store_across(
        acc, b_ptr, y_ptr, channel_out, sample, col, row_mask, col_mask, L_out, COUT,
        HAS_BIAS, ACTIVATION, Y_ALIGN,
    )  # fmt: skip


class GroupedChannelsLast(AcrossSamples):
    """See the module's docstring."""

    name = "grouped_channels_last"
    jit = grouped_channels_last_kernel
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "CHANNELS")
    raster = (("co", "l"), ("group",))
    most_rows = 128
    address_instructions = 4.0
    division_instructions = 0.0  # a step divides by powers of two, and once for all of its elements

    def refusal(self, problem: Problem) -> str | None:
        if problem.layout != "nlc":
            return f"it runs layout=nlc, not layout={problem.layout}"
        if problem.groups == 1 or problem.Cin_per_group < LEAST_CHANNELS:
            return f"it runs groups of {LEAST_CHANNELS} input channels or more, not {problem.Cin_per_group}"
        return super().refusal(problem)

    def check(self, config: Config) -> None:
        super().check(config)
        channels, depth = config.meta["CHANNELS"], config.meta["BLOCK_R"]
        if depth % channels:
            raise ConfigError("CHANNELS", channels, f"does not divide BLOCK_R={depth}", "give a smaller one")

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        return {"INDEX_64": columns_need_int64(problem)}  # x runs along its channels

    def choices(self, problem: Problem) -> Iterator[dict[str, int]]:
        most = next_power_of_two(problem.Cin_per_group)
        yield from ({"CHANNELS": channels} for channels in (8, 16, 32) if channels <= most)

    def worthwhile(self, problem: Problem, meta: Meta, device: Device) -> bool:  # noqa: ARG002
        taps, least = meta["BLOCK_R"] // meta["CHANNELS"], LEAST_DOT // meta["CHANNELS"]
        return 1 <= taps <= max(next_power_of_two(problem.K), least)

    def fits(self, work: Work, config: Config, device: Device) -> bool:
        lean = work.accumulators <= MOST_ACCUMULATORS * 32 * config.num_warps
        return lean and super().fits(work, config, device)

    def steps_of(self, problem: Problem, meta: Meta) -> int:
        channels = meta["CHANNELS"]
        return cdiv(problem.K, max(1, meta["BLOCK_R"] // channels)) * cdiv(problem.Cin_per_group, channels)

    def read_x(self, problem: Problem, meta: Meta) -> Access:
        batch, _, position = x_strides_of(problem)
        view, access = self.view(problem, meta), super().read_x(problem, meta)
        size, channels = problem.dtype_bytes, meta["CHANNELS"]
        columns = view.along(meta["BLOCK_L"], view.column_step * position, batch)
        reduction = Axis(meta["BLOCK_R"], channels, 1, view.tap_step * position)
        lie = access.map._replace(lanes=reduction.scaled(size), rows=columns.scaled(size), reduction="lanes")
        wide = min(alignment(problem.Cin, problem.Cin_per_group), channels) * size
        return replace(access, vector_bytes=min(16, wide), map=lie)

    def read_w(self, problem: Problem, meta: Meta) -> Access:
        rows, _, depth = self.block(problem, meta)
        channels, group = meta["CHANNELS"], problem.Cout_per_group * problem.reduction
        taps = depth // channels
        access = self.access(
            problem,
            meta,
            "w",
            columns=Axis(rows * channels, channels, problem.K, problem.reduction),
            reduction=plain(taps, 1),
            lanes="reduction",
            moves={"co": rows * problem.reduction, "group": group},
            elements=rows * depth * self.steps_of(problem, meta),
            distinct=min(rows, problem.Cout_per_group) * problem.reduction,
        )
        wide = min(16, alignment(problem.K) * problem.dtype_bytes, taps * problem.dtype_bytes)
        return replace(access, vector_bytes=wide)


KERNEL = GroupedChannelsLast()
