"""`split_k`: the reduction cut into SPLIT parts on a grid axis of their own, for problems of few tiles.

Each part writes its float32 sums to scratch memory, and a second launch adds them, in a fixed order, with the
bias: the result is the same in every run, which atomics would not give.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar, Step, forward_only
from autoconv.kernels.dense import x_vector_bytes
from autoconv.kernels.partials import sum_partials
from autoconv.kernels.sizes import (
    MAX_INT32,
    Strides,
    alignment,
    cdiv,
    largest_sample,
    powers_of_two,
)
from autoconv.kernels.space import LEAST_DOT, depths, pipelines, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, window, write_y
from autoconv.problem import Problem

MOST_PARTS = 16


@triton.jit
def split_k_kernel(
    x_ptr,
    w_ptr,
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
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SPLIT: tl.constexpr,
):
    REDUCTION: tl.constexpr = CIN_G * K
    PART: tl.constexpr = (REDUCTION + BLOCK_R * SPLIT - 1) // (BLOCK_R * SPLIT) * BLOCK_R
    tiles_co = tl.cdiv(COUT_G, BLOCK_CO)
    tiles_l = tl.cdiv(L_out, BLOCK_L)
    tile = tl.program_id(0)
    group = tl.program_id(1)
    part = tl.program_id(2)
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    col = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    row_mask = row < COUT_G
    first = col * STRIDE - PAD_LEFT
    x_group = x_ptr + n * x_batch + group * CIN_G * x_channel
    w_rows = w_ptr + (group * COUT_G + row) * REDUCTION

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, PART, BLOCK_R):
        r = part * PART + r0 + tl.arange(0, BLOCK_R)
        r_mask = r < REDUCTION
        position = first[None, :] + ((r % K) * DILATION)[:, None]
        x_mask = r_mask[:, None] & (position < L) & (position >= 0)
        x = tl.load(x_group + ((r // K) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=row_mask[:, None] & r_mask[None, :], other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    of_part = partials_ptr + (part.to(tl.int64) * N + n) * (GROUPS * COUT_G) * L_out
    offset = (group * COUT_G + row)[:, None] * L_out + col[None, :]
    tl.store(of_part + offset, acc, mask=row_mask[:, None] & (col < L_out)[None, :])


class SplitK(Kernel):
    """See the module's docstring."""

    name = "split_k"
    tensors = ("x", "w", "partials")
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "SPLIT")
    jit = split_k_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.reduction < 2 * LEAST_DOT:
            return f"it splits a reduction of at least {2 * LEAST_DOT}, not {problem.reduction}"
        if problem.groups > 65535:
            return "its grid puts the groups on axis y, which stops at 65535"
        if largest_sample(problem) > MAX_INT32:
            return "a sample of 2**31 elements has no need of more blocks"
        return forward_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        rows, columns = tile_sizes(problem.Cout_per_group, 128), tile_sizes(problem.L_out, 128)
        for block_co, block_l, block_r in product(rows, columns, depths(problem, problem.reduction)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}
            blocks, groups, _ = self.grid(problem)({**tiles, "SPLIT": 1})
            if blocks * groups >= 2 * device.sms:
                continue  # the device is full as it is
            for split in powers_of_two(2, MOST_PARTS):
                steps = cdiv(problem.reduction, block_r * split)
                if block_r * split > problem.reduction:
                    break
                for num_warps, num_stages in pipelines(steps):
                    config = Config(self.name, {**tiles, "SPLIT": split}, num_warps, num_stages)
                    if fits(self.work(problem, config), config, device):
                        yield config

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (
            problem.N * cdiv(problem.L_out, META["BLOCK_L"]) * cdiv(problem.Cout_per_group, META["BLOCK_CO"]),
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
        return config.meta["SPLIT"] * problem.N * problem.Cout * problem.L_out

    def steps(self, problem: Problem, config: Config, x_strides: Strides | None = None) -> tuple[Step, ...]:
        return *super().steps(problem, config, x_strides), sum_partials(problem, config.meta["SPLIT"])

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns, depth, split = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = cdiv(problem.reduction, depth * split)
        return Work(
            order=(
                ("co", cdiv(problem.Cout_per_group, rows)),
                ("l", cdiv(problem.L_out, columns)),
                ("n", problem.N),
                ("group", problem.groups),
                ("part", split),
            ),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=columns * depth * steps,
                    positions=window(problem, columns),
                    channels=cdiv(problem.Cin_per_group, split),
                    columns=columns,
                    depth=depth,
                    varies=("l", "n", "group", "part"),
                    advance=columns * problem.stride,
                    moves=(("l", columns * problem.stride), ("n", problem.Cin * problem.L)),
                    vector_bytes=x_vector_bytes(problem),
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=rows * depth * steps,
                    rows=rows,
                    depth=depth,
                    varies=("co", "group", "part"),
                    vector_bytes=min(16, alignment(problem.reduction) * size),
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("co", "l", "n", "group", "part"),
                moves=(("co", rows * problem.L_out), ("l", columns), ("n", problem.Cout * problem.L_out)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=8.0,  # as `dense`
            workspace_bytes=4 * self.workspace(problem, config),
        )


KERNEL = SplitK()
