"""A small problem on which a config runs the same code as on a large one."""

from __future__ import annotations

import math
from dataclasses import replace

from autoconv.config import Config
from autoconv.kernels.base import cdiv
from autoconv.problem import Problem


def reduced(problem: Problem, config: Config) -> Problem:
    """Return a small problem on which `config` runs the same code as on `problem`.

    At least one whole and one partial tile along every axis stay, remainders modulo the tiles and the
    divisibility of lengths by 16 are kept, and so are K, stride, dilation, padding, bias, dtype and layout.
    """
    meta = config.meta
    tile_l = meta.get("BLOCK_L") or meta["BLOCK_M"]
    tile_co = meta.get("BLOCK_CO") or meta["BLOCK_N"]
    tile_r = meta.get("BLOCK_R") or meta["BLOCK_K"]
    least_out = tile_l + tile_l // 2
    least_in = least_out * problem.stride + (problem.K - 1) * problem.dilation + 1
    return replace(
        problem,
        N=min(problem.N, 2),
        L=_shrunk(problem.L, least_in, math.lcm(16, problem.stride)),
        Cin=_shrunk(problem.Cin, cdiv(2 * tile_r, problem.K), tile_r) if problem.groups == 1 else problem.Cin,
        Cout=_shrunk(problem.Cout, tile_co, tile_co) if problem.groups == 1 else problem.Cout,
    )


def _shrunk(size: int, least: int, step: int) -> int:
    """Return the least number that is at least `least` and differs from `size` by a multiple of `step`."""
    return min(size, least + (size - least) % step)
