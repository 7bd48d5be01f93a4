"""Which problems a config is checked on as they are, and a small one in the place of the others."""

from __future__ import annotations

from dataclasses import replace

from autoconv.config import Config
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.sizes import cdiv
from autoconv.problem import Problem

INTERPRETED_STEPS = 200  # main-loop steps that the interpreter does in a second or two
GPU_ELEMENTS = 1 << 26  # of x, w and y together, whose float64 reference a GPU computes in a moment
_WITHOUT_TILE = 16  # what Triton specialises integer arguments on


def fits_gpu(problem: Problem) -> bool:
    """Return whether a GPU checks `problem` as it is, not reduced."""
    return problem.ideal_bytes // problem.dtype_bytes <= GPU_ELEMENTS


def fits_interpreter(problem: Problem, config: Config) -> bool:
    """Return whether the interpreter checks `config` on `problem` as it is, not reduced."""
    work = kernel_called(config.kernel).work(problem, config)
    return work.blocks * work.steps <= INTERPRETED_STEPS


def reduced(problem: Problem, config: Config) -> Problem:
    """Return a small problem on which `config` runs the same code as on `problem`.

    Remainders modulo the tiles stay, along the output's length, Cout and the reduction, and with them whether
    lengths are multiples of 16; so do one whole tile along each of these and a partial one where there was
    one; so do K, stride, dilation, padding, bias, activation, dtype and layout.

    Three samples, because tiles are powers of two: where a row of tiles runs over N * L_out and L_out is no
    multiple of the tile, then neither is 3 * L_out, and the last tile is partial there too.
    """
    columns = _tile(config, "BLOCK_L", "BLOCK_M")
    rows = _tile(config, "BLOCK_CO", "BLOCK_N")
    depth = _tile(config, "BLOCK_R", "BLOCK_K")
    parts = config.meta.get("SPLIT", 1)
    # An input longer by `grows` makes an output, or each phase of a transposed one, longer by a whole tile.
    grows = columns if problem.op == "conv_transpose" else columns * problem.stride
    reach = (problem.K - 1) * problem.dilation + 1
    # A kernel without a tile of the reduction has one input channel a group: its rows run over the groups.
    together = config.meta.get("PACK", 1) if "BLOCK_R" in config.meta else rows
    groups = _shrunk(problem.groups, least=max(2, together), step=together)
    # Two whole tiles of channels, where there is such a tile beside that of the reduction.
    least = max(cdiv((parts + 1) * depth, problem.K), 2 * config.meta.get("CHANNELS", 0))
    channels = _shrunk(problem.Cin_per_group, least=least, step=depth)
    return replace(
        problem,
        N=min(problem.N, 3),
        L=_shrunk(problem.L, least=grows + grows // 2 + reach, step=grows),
        groups=groups,
        Cin=groups * channels,
        Cout=groups * _shrunk(problem.Cout_per_group, least=rows, step=rows),
    )


def _tile(config: Config, *names: str) -> int:
    return next((config.meta[name] for name in names if name in config.meta), _WITHOUT_TILE)


def _shrunk(size: int, *, least: int, step: int) -> int:
    """Return the least number that is at least `least` and differs from `size` by a multiple of `step`."""
    return min(size, least + (size - least) % step)
