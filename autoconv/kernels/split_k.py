"""`split_k`: the reduction cut into SPLIT parts on a grid axis of their own, for problems of few tiles."""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from autoconv.device import Device
from autoconv.kernels.implicit_gemm import Meta
from autoconv.kernels.partials import SumsPartials
from autoconv.kernels.sizes import powers_of_two
from autoconv.kernels.space import LEAST_DOT
from autoconv.kernels.tiles import first_positions, tile_of, within
from autoconv.problem import Problem

MOST_PARTS = 16


@triton.jit
def split_k_kernel(
    x_ptr,
    w_ptr,
    partials_ptr,
    N,
    L_units,
    L_out_units,
    x_batch_units,
    x_channel_units,
    x_step,
    GROUPS: tl.constexpr,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PADDED: tl.constexpr,
    DILATION: tl.constexpr,
    PRECISION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SPLIT: tl.constexpr,
):
    REDUCTION: tl.constexpr = CIN_G * K
    PART: tl.constexpr = (REDUCTION + BLOCK_R * SPLIT - 1) // (BLOCK_R * SPLIT) * BLOCK_R
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    row, col, n = tile_of(COUT_G, L_out, BLOCK_CO, BLOCK_L, False)
    group = tl.program_id(1)
    part = tl.program_id(2)
    row_mask = row < COUT_G
    first = first_positions(col, STRIDE, PAD_LEFT)
    x_group = x_ptr + n * x_batch_units * X_ALIGN + group * CIN_G * x_channel
    w_rows = w_ptr + (group * COUT_G + row) * REDUCTION

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, PART, BLOCK_R):
        r = part * PART + r0 + tl.arange(0, BLOCK_R)
        r_mask = r < REDUCTION
        position = first[None, :] + ((r % K) * DILATION)[:, None]
        x_mask = within(position, L, PADDED) & r_mask[:, None]
        x = tl.load(x_group + ((r // K) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=row_mask[:, None] & r_mask[None, :], other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    of_part = partials_ptr + (part.to(tl.int64) * N + n) * (GROUPS * COUT_G) * L_out
    offset = (group * COUT_G + row)[:, None] * L_out + col[None, :]
    tl.store(of_part + offset, acc, mask=row_mask[:, None] & (col < L_out)[None, :])


class SplitK(SumsPartials):
    """See the module's docstring."""

    name = "split_k"
    jit = split_k_kernel
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "SPLIT")
    raster = (("co", "l", "n"), ("group",), ("part",))
    most_rows = most_columns = 128

    def refusal(self, problem: Problem) -> str | None:
        if problem.reduction < 2 * LEAST_DOT:
            return f"it splits a reduction of at least {2 * LEAST_DOT}, not {problem.reduction}"
        return super().refusal(problem)

    def choices(self, problem: Problem) -> Iterator[dict[str, int]]:  # noqa: ARG002
        yield from ({"SPLIT": split} for split in powers_of_two(2, MOST_PARTS))

    def worthwhile(self, problem: Problem, meta: Meta, device: Device) -> bool:
        blocks, groups, _ = self.grid(problem)(meta)
        full = blocks * groups >= 2 * device.sms  # as it is, without parts
        return not full and meta["BLOCK_R"] * meta["SPLIT"] <= problem.reduction


KERNEL = SplitK()
