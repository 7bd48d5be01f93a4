"""What the kernels for transposed convolutions share."""

from __future__ import annotations

from autoconv.kernels.implicit_gemm import ImplicitGemm
from autoconv.problem import Problem


class Transposed(ImplicitGemm):
    """A kernel for op=conv_transpose; its columns are input positions, each `stride` outputs."""

    address_instructions = 4.0

    def refusal(self, problem: Problem) -> str | None:
        return None if problem.op == "conv_transpose" else f"it runs op=conv_transpose, not op={problem.op}"
