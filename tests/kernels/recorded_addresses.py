"""The addresses that launches touch, held against the kernels' address maps; run with TRITON_INTERPRET=1.

Prints one JSON object: for each kernel and problem how many comparisons were made, and which failed. The
kernels are those that the arguments name, or all.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder

from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.base import Kernel
from autoconv.kernels.implicit_gemm import ImplicitGemm
from autoconv.kernels.registry import kernels
from autoconv.kernels.work import Access, Axis, Work
from autoconv.problem import Problem

PROBLEMS = [
    "N=2,Cin=8,Cout=40,K=3,L=70,stride=2,dilation=3,padding=2,bias=1",
    "N=2,Cin=8,Cout=40,K=4,L=70,layout=nlc",
    "N=2,Cin=24,Cout=40,K=1,L=150,stride=3",
    "N=2,Cin=24,Cout=40,K=1,L=508,padding=2",
    "N=2,Cin=24,Cout=40,K=1,L=100,layout=nlc",
    "N=2,Cin=20,Cout=40,K=3,L=70,stride=2,dilation=2,layout=nlc",
    "N=32,Cin=24,Cout=40,K=3,L=8,padding=1",
    "N=32,Cin=24,Cout=40,K=1,L=16,stride=2,layout=nlc",
    "N=2,Cin=2,Cout=70,K=5,L=200,stride=2",
    "N=2,Cin=40,Cout=96,K=3,L=70,groups=2,padding=1",
    "N=2,Cin=16,Cout=24,K=3,L=70,groups=8,dilation=2",
    "N=2,Cin=16,Cout=24,K=3,L=70,groups=8,layout=nlc",
    "N=2,Cin=32,Cout=40,K=32,L=90,groups=2,padding=16,layout=nlc",
    "N=2,Cin=20,Cout=20,K=5,L=200,groups=20,stride=2,padding=2",
    "N=2,Cin=20,Cout=20,K=5,L=200,groups=20,layout=nlc",
    "N=2,Cin=2,Cout=2,K=33,L=900,groups=2,padding=16",
    "N=2,Cin=2,Cout=2,K=33,L=700,groups=2,layout=nlc",
    "N=2,Cin=32,Cout=40,K=4,L=60,op=conv_transpose,stride=2,padding=1",
    "N=2,Cin=32,Cout=40,K=6,L=60,op=conv_transpose,stride=2,groups=2,layout=nlc",
    "N=32,Cin=32,Cout=40,K=4,L=7,op=conv_transpose,stride=2",
    "N=32,Cin=32,Cout=40,K=4,L=7,op=conv_transpose,stride=2,layout=nlc",
    "N=2,Cin=16,Cout=40,K=4,L=60,op=conv_transpose,stride=3,dilation=2,padding=2",
    "N=2,Cin=16,Cout=40,K=5,L=60,op=conv_transpose,stride=2,dilation=4",
    "N=2,Cin=4,Cout=4,K=8,L=130,op=conv_transpose,stride=2,groups=4,padding=2",
    "N=2,Cin=4,Cout=4,K=12,L=130,op=conv_transpose,stride=4,groups=4,layout=nlc",
    "N=2,Cin=4,Cout=4,K=36,L=130,op=conv_transpose,groups=4,dilation=3",
    "N=2,Cin=32,Cout=40,K=2,L=70,op=conv_weight,padding=1",
    "N=2,Cin=32,Cout=40,K=4,L=70,op=conv_weight,stride=2,groups=2,layout=nlc",
]
COLUMNS = 256  # of the widest tile
STEPS = 3  # of a block's main loop that are compared

Block = tuple[int, ...]  # its index along each launch axis
Record = tuple[
    np.ndarray[Any, Any], np.ndarray[Any, Any]
]  # of one access: addresses, which lanes are masked in


class Recorder:
    """Notes the pointers and the mask of each load and store, by program."""

    def __init__(self) -> None:
        """Note nothing until `records` is looked at."""
        self.records: dict[tuple[int, int, int], list[Record]] = defaultdict(list)

    def install(self) -> None:
        """Stand before the interpreter's own loads and stores."""
        for name, mask in (("create_masked_load", 0), ("create_masked_store", 1)):
            setattr(InterpreterBuilder, name, self._noting(getattr(InterpreterBuilder, name), mask))

    def _noting(self, original: Callable[..., Any], mask: int) -> Callable[..., Any]:
        def noting(builder: Any, pointers: Any, *rest: Any) -> Any:
            inside = rest[mask].data.astype(bool)  # integers where one of its terms is the same for all
            self.records[builder.grid_idx].append((pointers.data.astype(np.int64), inside))
            return original(builder, pointers, *rest)

        return noting


def main() -> None:
    """Print what was compared."""
    looked_at = {name: kernels()[name] for name in sys.argv[1:] or kernels()}
    recorder = Recorder()
    recorder.install()
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for text in PROBLEMS:
        problem = Problem.parse(text)
        for name, kernel in looked_at.items():
            if kernel.unsupported(problem) is None:
                found[name][text] = compared(kernel, problem, recorder)
    print(json.dumps(found))


def compared(kernel: Kernel, problem: Problem, recorder: Recorder) -> dict[str, Any]:
    """Launch one config, and compare."""
    config = spread(kernel, problem)
    if isinstance(kernel, ImplicitGemm) and kernel.view(problem, config.meta).samples > 1:
        problem = filling(problem)
        config = spread(kernel, problem)
    elif problem.N > 2:  # no tile runs across samples: two of them tell how far they lie apart
        problem = replace(problem, N=2)
        config = spread(kernel, problem)
    x = torch.randn(problem.x_shape)
    if problem.layout == "nlc":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    w, y = torch.randn(problem.w_shape), torch.empty(problem.y_shape)
    bias = torch.randn(problem.Cout) if problem.bias else None
    tensors = {"x": x, "w": w, "y": y}
    scratch = torch.empty(max(1, kernel.workspace(problem, config)))
    # Partial sums are what a launch writes in place of y, a packed weight what it reads in place of w.
    tensors |= {name: scratch for name in ("w", "y") if name not in kernel.tensors}
    recorder.records.clear()
    step = kernel.main_launch(problem, config, x.stride())
    step.jit[step.grid](
        *({**tensors, "b": bias, "partials": scratch}[t] for t in step.tensors), **step.keywords
    )
    work = kernel.work(problem, config)
    failures, count = [], 0
    for access in (*work.reads, work.write):
        steps = min(STEPS, work.steps // passes_of(kernel, problem))
        for claim, holds in claims(access, work, by_block(work, step.grid, recorder), tensors, steps):
            count += 1
            if not holds:
                failures.append(f"{config}: {access.tensor}: {claim}")
    return {"compared": count, "failures": sorted(set(failures))}


def filling(problem: Problem) -> Problem:
    """Return a problem for columns that run across samples: its maps have each tile begin with a sample.

    So samples fill tiles, or tiles the one sample; columns beyond the last read others once more.
    """
    if COLUMNS % problem.L_out == 0:
        return problem
    if problem.op == "conv_transpose":  # reads nothing for columns beyond the last
        return replace(problem, N=1)
    return replace(problem, N=1, L=problem.L + -problem.L_out % COLUMNS * problem.stride)


def passes_of(kernel: Kernel, problem: Problem) -> int:
    """Return the main loops of a block; a map says of the first one how its steps move."""
    return kernel.passes(problem) if isinstance(kernel, ImplicitGemm) else 1


def spread(kernel: Kernel, problem: Problem) -> Config:
    """Return a config with several blocks along most launch axes, of those the quickest to interpret."""

    def rank(config: Config) -> tuple[int, float, str]:
        work = kernel.work(problem, config)
        several = sum(extent > 1 for _, extent in work.raster)
        return -several, work.blocks * (work.steps + 2), str(config)

    return min(kernel.space(problem, find("rtx4090")), key=rank)


def by_block(work: Work, grid: tuple[int, int, int], recorder: Recorder) -> dict[Block, list[Record]]:
    """Return the records by the index along each launch axis; of parts one, as others may cut a channel."""
    of_block = {}
    for (px, py, pz), records in recorder.records.items():
        index, rest = {}, px + grid[0] * (py + grid[1] * pz)
        for axis, extent in work.raster:
            index[axis], rest = rest % round(extent), rest // round(extent)
        if index.get("part", 0) == 0:
            of_block[tuple(index.values())] = records
    return of_block


def claims(
    access: Access,
    work: Work,
    blocks: dict[Block, list[Record]],
    tensors: dict[str, torch.Tensor],
    steps: int,
) -> Iterator[tuple[str, bool]]:
    """Yield what the map says of the tile, of the first steps and of the blocks, and whether it is so."""
    start = tensors[access.tensor].data_ptr()
    end = start + tensors[access.tensor].untyped_storage().nbytes()
    bases: dict[Block, int] = {}
    for block, records in blocks.items():
        own = [(a, m) for a, m in records if m.any() and start <= a[m].min() and a[m].max() < end]
        for step, pieces in enumerate(_steps(access, own)[: steps if access.map.reduction else 1]):
            base = _base(access, step, pieces)
            if base is None:
                yield f"a tile of step {step} does not lie as {access.map}", False
                break
            if step:
                yield (
                    f"step {step} lies {base - bases.get(block, base)} bytes off",
                    base == bases.get(block, base),
                )
            bases.setdefault(block, base)
    moves = dict(access.map.moves)
    for block, base in bases.items():
        for number, (axis, _) in enumerate(work.raster):
            after = tuple(index + (position == number) for position, index in enumerate(block))
            # Phases have first taps and padding of their own, in no even steps.
            if after in bases and axis != "phase":
                moved = bases[after] - base
                yield f"{axis} moves by {moved} bytes", moved == moves.get(axis, 0)


def _steps(access: Access, records: list[Record]) -> list[list[Record]]:
    """Return the records of part 0 by main-loop step: an unrolled step makes its tile of several loads."""
    size = access.map.lanes.extent * access.map.rows.extent
    together = max(1, size // records[0][0].size) if records else 1
    return [records[at : at + together] for at in range(0, len(records), together)]


def _base(access: Access, step: int, pieces: list[Record]) -> int | None:
    """Return where the tile would start at step 0, or None where it does not lie as the map says."""
    lanes, rows = access.map.lanes, access.map.rows
    first = _offsets(lanes, step if access.map.reduction == "lanes" else 0)
    other = _offsets(rows, step if access.map.reduction == "rows" else 0)
    expected = other[:, None] + first[None, :]
    for axis in (0, 1):
        addresses = np.concatenate([_two_axes(a, expected) for a, _ in pieces], axis)
        inside = np.concatenate([_two_axes(np.broadcast_to(m, a.shape), expected) for a, m in pieces], axis)
        for actual, taken in ((addresses, inside), (addresses.T, inside.T)):
            if actual.shape == expected.shape:
                base = set((actual - expected)[taken].tolist())
                if len(base) == 1:
                    return int(base.pop())
    return None


def _two_axes(values: Any, expected: Any) -> Any:
    """Return the values on two axes: of three the map has two neighbours as one, laid end to end."""
    if values.ndim == 3 and values.size == expected.size:
        return values.reshape(expected.shape)
    return values.reshape(len(values), -1)


def _offsets(axis: Axis, step: int) -> Any:
    index = step * axis.extent + np.arange(axis.extent, dtype=np.int64)
    return (index % axis.inner) * axis.near + (index // axis.inner) * axis.far


if __name__ == "__main__":
    main()
