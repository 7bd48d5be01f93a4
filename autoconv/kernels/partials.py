"""Kernels that split their reduction: scratch memory, and a second launch that sums it in a fixed order.

The result is the same in every run, which atomics would not give.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.kernels.base import OPTIONS, Launch
from autoconv.kernels.implicit_gemm import ImplicitGemm
from autoconv.kernels.sizes import MAX_INT32, Strides, cdiv, largest_sample
from autoconv.kernels.tiles import activated
from autoconv.problem import Problem

BLOCK = 1024  # results of one block; 4 warps add 8 a thread
NUM_WARPS = 4


@triton.jit
def sum_partials_kernel(
    partials_ptr,
    b_ptr,
    y_ptr,
    TOTAL,
    ROW_LENGTH,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum SPLIT arrays of TOTAL values; the bias of element i is that of row (i // ROW_LENGTH) % ROWS."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < TOTAL
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    partials = partials_ptr + i
    for _ in range(SPLIT):  # always in this order, so that the result is the same in every run
        total += tl.load(partials, mask=mask, other=0.0)
        partials += TOTAL
    if HAS_BIAS:
        total += tl.load(b_ptr + (i // ROW_LENGTH) % ROWS, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + i, activated(total, ACTIVATION).to(y_ptr.dtype.element_ty), mask=mask)


class SumsPartials(ImplicitGemm):
    """A kernel whose blocks along the axis "part" each write float32 sums over a part of the reduction."""

    tensors = ("x", "w", "partials")

    def unsupported(self, problem: Problem) -> str | None:
        if largest_sample(problem) > MAX_INT32:
            return "its offsets within a sample stop at 2**31"
        return super().unsupported(problem)

    def workspace(self, problem: Problem, config: Config) -> int:
        return config.tiles["SPLIT"] * math.prod(problem.y_shape)

    def launches(
        self, problem: Problem, config: Config, x_strides: Strides | None = None
    ) -> tuple[Launch, ...]:
        return *super().launches(problem, config, x_strides), _sum(problem, config.tiles["SPLIT"])


def _sum(problem: Problem, split: int) -> Launch:
    """Return the launch that sums `split` partial results into y, with bias and activation."""
    first, rows, length = problem.y_shape
    total = first * rows * length
    keywords = {
        "TOTAL": total,
        "ROW_LENGTH": length,
        "ROWS": rows,
        "SPLIT": split,
        "HAS_BIAS": problem.bias,
        "ACTIVATION": problem.activation,
        "BLOCK": BLOCK,
        "num_warps": NUM_WARPS,
        "num_stages": 2,
        **OPTIONS,
    }
    return Launch(sum_partials_kernel, ("partials", "b", "y"), (cdiv(total, BLOCK), 1, 1), keywords)
