"""The check that every config must pass before the database may name it a winner.

Two draws of fresh random inputs, each against a float64 reference of the same rounded values:

- small integers, whose products and sums every precision represents exactly, so that one wrong tap or one
  wrong element shows whatever the size of the reduction, and whatever the precision's tolerance;
- normal deviates, whose error must stay within the precision's rounding.

The output lies between two guard bands and all of it starts as NaN, so that an element left unwritten, or
written outside, is counted. Inputs are drawn where the candidate runs. The references are computed, and done,
before it runs, so that what fails there is charged to the machine and what fails later to the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from autoconv import gpu
from autoconv.config import Config
from autoconv.kernels.aten import activations, convolution
from autoconv.kernels.interpreter import mend_bfloat16
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable, outcome_of

Shape: TypeAlias = tuple[int, ...]

GUARD = 4096  # elements before and after the output
INTEGERS = 3  # inputs are drawn from -3 .. 3: 9 x a reduction of 2**20 still fits the 24 bits of float32

_EXACT = ("none", "relu")  # activations that map integers to integers

TOLERANCE = {
    # Largest error of an element, relative to the sum of the magnitudes of its terms. float32: 24-bit
    # significands in a blocked sum. The half precisions: the output's rounding.
    # tf32: a tensor core reads sign, exponent and 10 bits of fraction of a float32, and Triton does not round
    # to those first (it emits no cvt.rna.tf32), so the other 13 bits are cut off. Each factor loses less than
    # 2**-10 of itself, a product less than 2 * 2**-10 = 1.95e-3, and so does a sum, relative to its
    # magnitudes; the rest of 2e-3 is for sums in float32. Reductions of few terms come close to it.
    # tf32x3: of each factor less than 2**-20 is cut off, and the product of the small halves, as much again,
    # is left out: 3 * 2**-20 = 2.9e-6, and the rest for sums in float32.
    ("float32", "ieee"): 2e-6,
    ("float32", "tf32x3"): 4e-6,
    ("float32", "tf32"): 2e-3,
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
        where: "cpu", in a process that interprets (TRITON_INTERPRET=1), or a device such as "cuda:1", which
            must be the current one.
        seed: Of the random draws, made by torch's own generators.

    Raises:
        Unavailable: `where` cannot compute the reference.
    """
    torch.manual_seed(seed)
    exact = _run(problem, config, where, _integers)
    rounded = _run(problem, config, where, _deviates)
    worst = max(exact.error, rounded.error)
    unwritten, overrun = exact.unwritten + rounded.unwritten, exact.overrun + rounded.overrun
    tolerance = TOLERANCE[problem.dtype, problem.precision]
    within = rounded.error <= tolerance and exact.error <= tolerance and exact.wrong == 0
    return Verdict(within and not unwritten and not overrun, worst, unwritten, overrun, seed, str(problem))


@dataclass(frozen=True)
class _Comparison:
    error: float  # largest, relative to the magnitudes
    wrong: int  # elements that are not the exact result, but for the rounding of the activation and of y
    unwritten: int
    overrun: int


@dataclass(frozen=True)
class _Inputs:
    x: torch.Tensor
    w: torch.Tensor
    bias: torch.Tensor | None


def _run(
    problem: Problem, config: Config, where: str, draw: Callable[[Shape, str], torch.Tensor]
) -> _Comparison:
    inputs = _drawn(problem, where, draw)
    total = _reference(problem, inputs, where)
    magnitude = _reference(problem, _magnitudes(inputs), where)
    dtype, size = inputs.x.dtype, math.prod(problem.y_shape)
    buffer = torch.full((size + 2 * GUARD,), math.nan, dtype=dtype, device=where)
    y = buffer[GUARD : GUARD + size].view(problem.y_shape)

    if where == "cpu":
        mend_bfloat16()
    kernel_called(config.kernel).launch(problem, config, inputs.x, inputs.w, inputs.bias, y)

    expected = activations()[problem.activation](total)
    written = ~y.isnan()
    difference = (y.double() - expected).abs()
    # Below the least normal number a dtype's rounding is no longer relative to the result.
    error = difference / magnitude.clamp_min(torch.finfo(dtype).tiny)
    return _Comparison(
        error=error[written].max().item() if written.any() else math.inf,
        wrong=int(_wrong(problem, y, total, expected, difference).sum()),
        unwritten=int((~written).sum()),
        overrun=int((~torch.cat([buffer[:GUARD], buffer[GUARD + size :]]).isnan()).sum()),
    )


def _wrong(
    problem: Problem, y: torch.Tensor, total: torch.Tensor, expected: torch.Tensor, difference: torch.Tensor
) -> torch.Tensor:
    """Return where y is not the activation of a sum that was formed exactly."""
    if problem.activation in _EXACT:
        return y != expected.to(y.dtype)
    # The activation is evaluated in float32, and that rounds relative to its argument, or to 1.
    return ~(difference <= TOLERANCE[problem.dtype, "ieee"] * (1 + total.abs()))


def _drawn(problem: Problem, where: str, draw: Callable[[Shape, str], torch.Tensor]) -> _Inputs:
    """Return inputs of the problem's dtype and layout, made on `where`: copying them there takes longer."""
    dtype = getattr(torch, problem.dtype)
    x = draw(problem.x_shape, where).to(dtype)
    w = draw(problem.w_shape, where).to(dtype)
    bias = draw((problem.Cout,), where).to(dtype) if problem.bias else None
    return _Inputs(x.transpose(1, 2).contiguous().transpose(1, 2) if problem.layout == "nlc" else x, w, bias)


def _integers(shape: Shape, where: str) -> torch.Tensor:
    return torch.randint(-INTEGERS, INTEGERS + 1, shape, dtype=torch.float32, device=where)


def _deviates(shape: Shape, where: str) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float32, device=where)


def _magnitudes(inputs: _Inputs) -> _Inputs:
    bias = None if inputs.bias is None else inputs.bias.abs()
    return _Inputs(inputs.x.abs(), inputs.w.abs(), bias)


def _reference(problem: Problem, inputs: _Inputs, where: str) -> torch.Tensor:
    """Return the result in float64, before the activation, computed to its end.

    Raises:
        Unavailable: it cannot be computed here, which is no fault of any candidate's.
    """
    x, w = inputs.x.double(), inputs.w.double()
    bias = None if inputs.bias is None else inputs.bias.double()
    try:
        try:
            return _done(convolution(problem, x, w, bias), where)
        except RuntimeError:  # cuDNN has no float64 algorithm for some problems; torch's own kernels do
            with torch.backends.cudnn.flags(enabled=False):
                return _done(convolution(problem, x, w, bias), where)
    except RuntimeError as error:
        reason = f"the float64 reference of {problem} failed on {where}: {outcome_of(error).reason}"
        raise Unavailable(reason) from error


def _done(y: torch.Tensor, where: str) -> torch.Tensor:
    gpu.wait(where)
    return y
