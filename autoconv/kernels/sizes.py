"""Arithmetic of sizes and strides that the kernels share."""

from __future__ import annotations

import math
from typing import TypeAlias

from autoconv.problem import Problem

Strides: TypeAlias = tuple[int, int, int]  # of x over (sample, channel, position), in elements

MAX_INT32 = 2**31 - 1

ADDRESSED_BYTES = 2**49
"""What a GPU can address: 49 bits of virtual addresses (NVIDIA Tesla P100 white paper, "Unified Memory")."""


def x_strides_of(problem: Problem) -> Strides:
    """Return the strides, in elements, of a densely packed x in the problem's layout."""
    if problem.layout == "nlc":
        return problem.Cin * problem.L, 1, problem.Cin
    return problem.Cin * problem.L, problem.L, 1


def alignment(*counts: int, most: int = 16) -> int:
    """Return the largest power of two, up to `most`, that divides every count.

    >>> alignment(224280, 64)
    8
    """
    unit = most
    while any(count % unit for count in counts):
        unit //= 2
    return unit


def powers_of_two(least: int, most: int) -> list[int]:
    """Return the powers of two from `least` to `most`, both inclusive; `least` must be one.

    >>> powers_of_two(16, 100)
    [16, 32, 64]
    """
    return [1 << e for e in range(least.bit_length() - 1, most.bit_length())]


def cdiv(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    """Return the least power of two that is at least n.

    >>> next_power_of_two(65)
    128
    """
    return 1 << (n - 1).bit_length()


def is_power_of_two(n: int) -> bool:
    """Return whether n, at least 1, is a power of two."""
    return n & (n - 1) == 0


def largest_sample(problem: Problem) -> int:
    """Return the elements of one sample of x or y, whichever is more, the last tile's overshoot included."""
    overshoot = 512 * problem.stride + problem.K * problem.dilation
    return max(problem.Cin * (problem.L + overshoot), problem.Cout * (problem.L_out + overshoot))


def needs_int64(problem: Problem) -> bool:
    """Return whether offsets within one sample pass 2**31."""
    return largest_sample(problem) > MAX_INT32


def columns_need_int64(problem: Problem) -> bool:
    """Return whether the outputs of all samples, counted through, pass 2**31, or offsets within one do."""
    return needs_int64(problem) or problem.N * (problem.L_out + 512) > MAX_INT32


def beyond_reach(problem: Problem) -> str | None:
    """Return why no kernel can address all of `problem`, or None where they can.

    Kernels and cost model form offsets of tiles that overshoot a tensor's end, in 64 bits at most.
    """
    elements = max(problem.N * largest_sample(problem), math.prod(problem.w_shape))
    reach = elements * problem.dtype_bytes
    if reach <= ADDRESSED_BYTES:
        return None
    return f"its offsets reach {reach} bytes, past the 2**49 that a GPU addresses"
