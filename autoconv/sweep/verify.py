"""The check that every config must pass before the database may name it a winner.

Two draws of fresh random inputs, each against a float64 reference of the same rounded values:

- small integers, whose products and sums every precision represents exactly, so that one wrong tap or one
  wrong element shows whatever the size of the reduction;
- normal deviates, whose error must stay within the precision's rounding.

The output lies between two guard bands and all of it starts as NaN, so that an element left unwritten, or
written outside, is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.nn import functional

from autoconv.config import Config
from autoconv.kernels.aten import convolution
from autoconv.kernels.interpreter import mend_bfloat16
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem

Shape: TypeAlias = tuple[int, ...]

GUARD = 4096  # elements before and after the output
INTEGERS = 3  # inputs are drawn from -3 .. 3: 9 x a reduction of 2**20 still fits the 24 bits of float32

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda y: y,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}
_EXACT = ("none", "relu")  # what maps integers to integers

TOLERANCE = {
    # Largest error of an element, relative to the sum of the magnitudes of its terms. float32: 24-bit
    # significands in a blocked sum; tf32: both factors rounded to 11 bits; the others: the output's rounding.
    ("float32", "ieee"): 2e-6,
    ("float32", "tf32x3"): 4e-6,
    ("float32", "tf32"): 1e-3,
    ("float16", "ieee"): 1e-3,
    ("bfloat16", "ieee"): 8e-3,
}


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check."""

    ok: bool
    max_rel_err: float  # largest |y - reference| over any element, relative to the magnitudes of its terms
    unwritten: int  # elements of the output still NaN
    overrun: int  # elements of the guard bands that changed
    seed: int  # of the random draws
    problem: str  # the problem that was run, in its text form


def verify(problem: Problem, config: Config, *, where: str, seed: int) -> Verdict:
    """Run `config` on random inputs and compare with a float64 reference.

    Args:
        problem: Run as it is; `reduced` makes one that the interpreter finishes in a second.
        config: A config of one of the kernels.
        where: "cpu", in a process that interprets (TRITON_INTERPRET=1), or "cuda".
        seed: Of the random draws.
    """
    generator = torch.Generator().manual_seed(seed)
    exact = _run(problem, config, where, lambda shape: _integers(shape, generator))
    rounded = _run(
        problem, config, where, lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    )
    worst = max(exact.error, rounded.error)
    unwritten, overrun = exact.unwritten + rounded.unwritten, exact.overrun + rounded.overrun
    tolerance = TOLERANCE[problem.dtype, problem.precision]
    within = rounded.error <= tolerance and exact.error <= tolerance
    if problem.activation in _EXACT:
        within = within and exact.wrong == 0
    return Verdict(within and not unwritten and not overrun, worst, unwritten, overrun, seed, str(problem))


@dataclass(frozen=True)
class _Comparison:
    error: float  # largest, relative to the magnitudes
    wrong: int  # elements that differ from the reference rounded to the output's dtype
    unwritten: int
    overrun: int


def _run(problem: Problem, config: Config, where: str, draw: Callable[[Shape], torch.Tensor]) -> _Comparison:
    dtype = getattr(torch, problem.dtype)
    x = _laid_out(draw(problem.x_shape).to(where, dtype), problem.layout)
    w = draw(problem.w_shape).to(where, dtype)
    bias = draw((problem.Cout,)).to(where, dtype) if problem.bias else None
    size = math.prod(problem.y_shape)
    buffer = torch.full((size + 2 * GUARD,), math.nan, dtype=dtype, device=where)
    y = buffer[GUARD : GUARD + size].view(problem.y_shape)

    if where == "cpu":
        mend_bfloat16()
    kernel_called(config.kernel).launch(problem, config, x, w, bias, y)

    expected = _ACTIVATIONS[problem.activation](_reference(problem, x, w, bias))
    magnitude = _reference(problem, x.abs(), w.abs(), None if bias is None else bias.abs())
    written = ~y.isnan()
    # Below the least normal number a dtype's rounding is no longer relative to the result.
    error = (y.double() - expected).abs() / magnitude.clamp_min(torch.finfo(dtype).tiny)
    return _Comparison(
        error=error[written].max().item() if written.any() else math.inf,
        wrong=int((y != expected.to(dtype)).sum()),
        unwritten=int((~written).sum()),
        overrun=int((~torch.cat([buffer[:GUARD], buffer[GUARD + size :]]).isnan()).sum()),
    )


def _reference(problem: Problem, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the result in float64, before the activation."""
    return convolution(problem, x.double(), w.double(), None if bias is None else bias.double())


def _integers(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-INTEGERS, INTEGERS + 1, shape, generator=generator)


def _laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2) if layout == "nlc" else x
