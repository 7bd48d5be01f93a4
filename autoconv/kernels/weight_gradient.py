"""`weight_gradient`: a GEMM of Cout by (Cin, tap) over all output positions of all samples.

The reduction, N * L_out long, is cut into SPLIT parts, each of which writes float32 partial sums; a second
launch adds them in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar, Step
from autoconv.kernels.partials import sum_partials
from autoconv.kernels.sizes import (
    MAX_INT32,
    Strides,
    cdiv,
    largest_sample,
    next_power_of_two,
    powers_of_two,
)
from autoconv.kernels.space import depths, pipelines, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, window, write_y
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


class WeightGradient(Kernel):
    """See the module's docstring."""

    name = "weight_gradient"
    tensors = ("x", "w", "partials")
    tiles = ("BLOCK_CO", "BLOCK_R", "BLOCK_L", "SPLIT")
    jit = weight_gradient_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.op != "conv_weight":
            return f"it runs op=conv_weight, not op={problem.op}"
        if problem.groups > 65535:
            return "its grid puts the groups on axis y, which stops at 65535"
        if largest_sample(problem) > MAX_INT32:
            return "its offsets within a sample stop at 2**31"
        return None

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        rows, columns = tile_sizes(problem.Cout_per_group, 128), tile_sizes(problem.reduction, 128)
        for block_co, block_r, block_l in product(rows, columns, depths(problem, problem.L_out)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_R": block_r, "BLOCK_L": block_l}
            chunks = problem.N * cdiv(problem.L_out, block_l)
            blocks, groups, _ = self.grid(problem)({**tiles, "SPLIT": 1})
            most = min(chunks, max(1, cdiv(WAVES * device.sms, blocks * groups)), 1024)
            for split in powers_of_two(1, next_power_of_two(most))[-3:]:
                for num_warps, num_stages in pipelines(cdiv(chunks, split)):
                    config = Config(self.name, {**tiles, "SPLIT": split}, num_warps, num_stages)
                    if fits(self.work(problem, config), config, device):
                        yield config

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (
            cdiv(problem.Cout_per_group, META["BLOCK_CO"]) * cdiv(problem.reduction, META["BLOCK_R"]),
            problem.groups,
            META["SPLIT"],
        )

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        x_batch, x_channel, x_step = x_strides
        return {
            "N": problem.N,
            "L": problem.L,
            "L_out": problem.L_out,
            "x_batch": x_batch,
            "x_channel": x_channel,
            "x_step": x_step,
            "GROUPS": problem.groups,
            "CIN_G": problem.Cin_per_group,
            "COUT_G": problem.Cout_per_group,
            "K": problem.K,
            "STRIDE": problem.stride,
            "PAD_LEFT": problem.pad_left,
            "DILATION": problem.dilation,
            "PRECISION": problem.precision,
        }

    def workspace(self, problem: Problem, config: Config) -> int:
        return config.meta["SPLIT"] * problem.Cout * problem.reduction

    def steps(self, problem: Problem, config: Config, x_strides: Strides | None = None) -> tuple[Step, ...]:
        return *super().steps(problem, config, x_strides), sum_partials(problem, config.meta["SPLIT"])

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns, depth, split = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        chunks = problem.N * cdiv(problem.L_out, depth)
        steps = cdiv(chunks, split)
        return Work(
            order=(
                ("co", cdiv(problem.Cout_per_group, rows)),
                ("r", cdiv(problem.reduction, columns)),
                ("group", problem.groups),
                ("part", split),
            ),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=columns * depth * steps,
                    positions=window(problem, min(problem.L_out, depth * steps)),
                    channels=cdiv(columns, problem.K) * cdiv(depth * steps, problem.L_out),
                    columns=depth,
                    depth=columns,
                    varies=("r", "group", "part"),
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=min(rows, problem.Cout_per_group) * depth * steps,
                    rows=rows,
                    depth=depth,
                    varies=("co", "group", "part"),
                    row_stride=problem.L_out,
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("co", "r", "group", "part"),
                row_stride=problem.reduction,
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=8.0,  # as `dense`
            workspace_bytes=4 * self.workspace(problem, config),
        )


KERNEL = WeightGradient()
