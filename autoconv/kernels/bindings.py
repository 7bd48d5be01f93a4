"""Arguments by name: what the scalar parameters of a jit function stand for, in every kernel.

Lowercase names and the sizes N, L and L_out are arguments of the launch, all other capitals are compile-time
constants. A name that ends in `_units` is passed divided by X_ALIGN or Y_ALIGN, the largest power of two that
divides all that is passed so: Triton specialises integers on divisibility by 16 alone, and the product with a
constant restores what a multiple of 2, 4 or 8 allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from autoconv.kernels.sizes import Strides, alignment, needs_int64
from autoconv.problem import Problem

Scalar: TypeAlias = int | bool | str

UNITS = "_units"


def bindings(problem: Problem, x_strides: Strides, names: Sequence[str]) -> dict[str, Scalar]:
    """Return the value of every shared name for `problem`, of which a kernel takes those in its signature.

    Args:
        problem: The problem.
        x_strides: Of x over (sample, channel, position), in elements.
        names: The kernel's parameters; they decide what X_ALIGN has to divide.
    """
    x_batch, x_channel, x_step = x_strides
    of_x = {"L": problem.L, "x_batch": x_batch, "x_channel": x_channel, "x_step": x_step}
    x_align = alignment(*(size for name, size in of_x.items() if name + UNITS in names))
    y_align = alignment(problem.L_out)
    return {
        **of_x,
        **{name + UNITS: size // x_align for name, size in of_x.items()},
        "N": problem.N,
        "L_out": problem.L_out,
        "L_out_units": problem.L_out // y_align,
        "stride": problem.stride,
        "pad_left": problem.pad_left,
        "dilation": problem.dilation,
        "GROUPS": problem.groups,
        "CIN": problem.Cin,
        "COUT": problem.Cout,
        "CIN_G": problem.Cin_per_group,
        "COUT_G": problem.Cout_per_group,
        "K": problem.K,
        "STRIDE": problem.stride,
        "PAD_LEFT": problem.pad_left,
        "PADDED": problem.pad_left > 0,
        "PADDED_RIGHT": _last_read(problem) >= problem.L,
        "DILATION": problem.dilation,
        "HAS_BIAS": problem.bias,
        "ACTIVATION": problem.activation,
        "PRECISION": problem.precision,
        "X_ALIGN": x_align,
        "Y_ALIGN": y_align,
        "INDEX_64": needs_int64(problem),
    }


def _last_read(problem: Problem) -> int:
    """Return the input position that the last tap of a convolution's last output reads."""
    return (problem.L_out - 1) * problem.stride - problem.pad_left + (problem.K - 1) * problem.dilation
