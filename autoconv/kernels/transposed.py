"""What the kernels for transposed convolutions share."""

from __future__ import annotations

import math

from autoconv.kernels.bindings import Scalar
from autoconv.kernels.implicit_gemm import ImplicitGemm, Meta, View
from autoconv.kernels.sizes import cdiv
from autoconv.problem import Problem


class Transposed(ImplicitGemm):
    """A kernel for op=conv_transpose; its columns are input positions, each `stride` outputs."""

    address_instructions = 4.0

    def refusal(self, problem: Problem) -> str | None:
        return None if problem.op == "conv_transpose" else f"it runs op=conv_transpose, not op={problem.op}"


class ByPhase(Transposed):
    """A kernel that sums the outputs of one phase of the stride at a time, each phase by taps of its own."""

    def view(self, problem: Problem, meta: Meta) -> View:  # noqa: ARG002
        gcd = math.gcd(problem.stride, problem.dilation)
        return View(
            rows=problem.Cout_per_group,
            columns=cdiv(problem.L_out, problem.stride),
            channels=problem.Cin_per_group,
            taps=cdiv(problem.K, problem.stride // gcd),
            column_step=1,
            tap_step=-(problem.dilation // gcd),
            groups=problem.groups,
        )

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        gcd = math.gcd(problem.stride, problem.dilation)
        # A phase's first tap k solves k * dilation = phase (mod stride).
        return {"GCD": gcd, "INVERSE": pow(problem.dilation // gcd, -1, problem.stride // gcd)}

    def w_strides(self, problem: Problem, view: View) -> tuple[int, int, int, int]:
        channel = problem.Cout_per_group * problem.K
        tap = problem.stride // math.gcd(problem.stride, problem.dilation)
        return view.channels * channel, problem.K, channel, tap
