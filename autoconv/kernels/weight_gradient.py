"""`weight_gradient`: a GEMM of Cout by (Cin, tap) over all output positions of all samples.

The reduction, N * L_out long, is cut into SPLIT parts, each of which writes float32 partial sums; a second
launch adds them in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.device import Device
from autoconv.kernels.implicit_gemm import Meta
from autoconv.kernels.partials import SumsPartials
from autoconv.kernels.sizes import cdiv, next_power_of_two, powers_of_two, x_strides_of
from autoconv.kernels.space import depths, tile_sizes
from autoconv.kernels.work import Access, Axis, plain, window
from autoconv.problem import Problem

WAVES = 4  # parts beyond this many blocks an SM only add partial sums


@triton.jit
def weight_gradient_kernel(
    x_ptr,
    g_ptr,
    partials_ptr,
    N,
    L,
    L_out,
    x_batch,
    x_channel,
    x_step,
    GROUPS: tl.constexpr,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    DILATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_L: tl.constexpr,
    SPLIT: tl.constexpr,
):
    COLUMNS: tl.constexpr = CIN_G * K
    tiles_co = tl.cdiv(COUT_G, BLOCK_CO)
    tile = tl.program_id(0)
    group = tl.program_id(1)
    part = tl.program_id(2)
    row = (tile % tiles_co) * BLOCK_CO + tl.arange(0, BLOCK_CO)
    r = (tile // tiles_co) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = row < COUT_G
    r_mask = r < COLUMNS
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    chunks = N * tiles_l
    of_part = tl.cdiv(chunks, SPLIT)
    g_rows = g_ptr + (group * COUT_G + row) * L_out
    x_columns = x_ptr + (group * CIN_G + r // K) * x_channel
    tap_offset = (r % K) * DILATION - PAD_LEFT

    acc = tl.zeros((BLOCK_CO, BLOCK_R), dtype=tl.float32)
    for chunk in range(part * of_part, tl.minimum((part + 1) * of_part, chunks)):
        n = (chunk // tiles_l).to(tl.int64)
        col = (chunk % tiles_l) * BLOCK_L + tl.arange(0, BLOCK_L)
        col_mask = col < L_out
        position = (col * STRIDE)[:, None] + tap_offset[None, :]
        x_mask = col_mask[:, None] & r_mask[None, :] & (position >= 0) & (position < L)
        x = tl.load(x_columns[None, :] + n * x_batch + position * x_step, mask=x_mask, other=0.0)
        g_mask = row_mask[:, None] & col_mask[None, :]
        g = tl.load(g_rows[:, None] + n * (GROUPS * COUT_G) * L_out + col[None, :], mask=g_mask, other=0.0)
        acc = tl.dot(g, x, acc, input_precision=PRECISION)

    sums = partials_ptr + part.to(tl.int64) * (GROUPS * COUT_G) * COLUMNS
    offset = (group * COUT_G + row)[:, None] * COLUMNS + r[None, :]
    tl.store(sums + offset, acc, mask=row_mask[:, None] & r_mask[None, :])


class WeightGradient(SumsPartials):
    """See the module's docstring: BLOCK_R taps of channels are the columns, BLOCK_L outputs the depth."""

    name = "weight_gradient"
    jit = weight_gradient_kernel
    tiles = ("BLOCK_CO", "BLOCK_R", "BLOCK_L", "SPLIT")
    raster = (("co", "r"), ("group",), ("part",))

    def refusal(self, problem: Problem) -> str | None:
        return None if problem.op == "conv_weight" else f"it runs op=conv_weight, not op={problem.op}"

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:
        rows, columns = tile_sizes(problem.Cout_per_group, 128), tile_sizes(problem.reduction, 128)
        for block_co, block_r, block_l in product(rows, columns, depths(problem, problem.L_out)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_R": block_r, "BLOCK_L": block_l}
            blocks, groups, _ = self.grid(problem)({**tiles, "SPLIT": 1})
            most = min(_chunks(problem, tiles), max(1, cdiv(WAVES * device.sms, blocks * groups)), 1024)
            for split in powers_of_two(1, next_power_of_two(most))[-3:]:
                yield {**tiles, "SPLIT": split}

    def extents(self, problem: Problem, meta: Meta) -> dict[str, int]:
        return {
            "co": cdiv(problem.Cout_per_group, meta["BLOCK_CO"]),
            "r": cdiv(problem.reduction, meta["BLOCK_R"]),
            "group": problem.groups,
            "part": meta["SPLIT"],
        }

    def block(self, problem: Problem, meta: Meta) -> tuple[int, int, int]:  # noqa: ARG002
        return meta["BLOCK_CO"], meta["BLOCK_R"], meta["BLOCK_L"]

    def steps_of(self, problem: Problem, meta: Meta) -> int:
        return cdiv(_chunks(problem, meta), meta["SPLIT"])

    def read_x(self, problem: Problem, meta: Meta) -> Access:
        _, columns, depth = self.block(problem, meta)
        _, channel, position = x_strides_of(problem)
        outputs = depth * self.steps_of(problem, meta)
        channels = cdiv(columns, problem.K) * cdiv(outputs, problem.L_out)
        reach = window(problem, min(problem.L_out, outputs))
        return self.access(
            problem,
            meta,
            "x",
            columns=Axis(columns, problem.K, problem.dilation * position, channel),
            reduction=plain(depth, problem.stride * position),
            lanes="reduction",
            moves={
                "r": columns // problem.K * channel,
                "group": problem.Cin_per_group * channel,
                "part": outputs * problem.stride * position,
            },
            elements=columns * outputs,
            distinct=min(reach, problem.L) * min(channels, problem.Cin),
        )

    def read_w(self, problem: Problem, meta: Meta) -> Access:
        rows, _, depth = self.block(problem, meta)
        outputs = depth * self.steps_of(problem, meta)
        return self.access(
            problem,
            meta,
            "w",
            columns=plain(rows, problem.L_out),
            reduction=plain(depth, 1),
            lanes="reduction",
            moves={
                "co": rows * problem.L_out,
                "group": problem.Cout_per_group * problem.L_out,
                "part": outputs,
            },
            elements=rows * outputs,
            distinct=min(rows, problem.Cout_per_group) * outputs,
        )

    def write_y(self, problem: Problem, meta: Meta) -> Access:
        rows, columns, _ = self.block(problem, meta)
        return self.access(
            problem,
            meta,
            "y",
            columns=plain(columns, 1),
            reduction=plain(rows, problem.reduction),
            lanes="columns",
            moves={
                "co": rows * problem.reduction,
                "r": columns,
                "group": problem.Cout_per_group * problem.reduction,
                "part": 0,
            },
            elements=rows * columns,
            distinct=rows * columns,
        )


def _chunks(problem: Problem, meta: Meta) -> int:
    """Return the tiles of BLOCK_L outputs in all samples."""
    return problem.N * cdiv(problem.L_out, meta["BLOCK_L"])


KERNEL = WeightGradient()
