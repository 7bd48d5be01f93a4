"""Kernels that multiply and add on the CUDA cores: operands in registers, nothing staged in shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import ClassVar

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.implicit_gemm import ImplicitGemm, Meta
from autoconv.kernels.sizes import MAX_INT32
from autoconv.kernels.space import tile_sizes
from autoconv.kernels.work import Work
from autoconv.problem import Problem


class OnCudaCores(ImplicitGemm):
    """A kernel whose tile is BLOCK_CO by BLOCK_L; a step adds one product to each accumulator."""

    tiles = ("BLOCK_CO", "BLOCK_L")
    tensor_cores = False
    w_in_rows = False
    division_instructions = 0.0  # the tap is the same for all of a step
    most_columns = 1024
    most_outputs: ClassVar[int]  # of a thread: they and the operands live in its registers

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:  # noqa: ARG002
        view = self.view(problem, {})
        rows = tile_sizes(view.rows, self.most_rows, least=1)
        columns = tile_sizes(view.columns, self.most_columns, least=32)
        yield from ({"BLOCK_CO": row, "BLOCK_L": column} for row, column in product(rows, columns))

    def pipelines(self, work: Work) -> Iterator[tuple[int, int]]:  # noqa: ARG002 - no copies to pipeline
        yield from product((1, 2, 4, 8), (2,))

    def fits(self, work: Work, config: Config, device: Device) -> bool:  # noqa: ARG002 - registers alone
        outputs = work.accumulators // (32 * config.num_warps)
        useful = 1 <= outputs <= self.most_outputs and (outputs >= 4 or work.accumulators < 512)
        return useful and work.blocks <= MAX_INT32

    def block(self, problem: Problem, meta: Meta) -> tuple[int, int, int]:  # noqa: ARG002
        return meta["BLOCK_CO"], meta["BLOCK_L"], 1
