"""A small problem on which a config runs the same code as on a large one."""

from __future__ import annotations

import math
from dataclasses import replace

from autoconv.config import Config
from autoconv.kernels.sizes import cdiv
from autoconv.problem import Problem

_NO_DEPTH = 16  # stands for the reduction's tile of a kernel without one


def reduced(problem: Problem, config: Config) -> Problem:
    """Return a small problem on which `config` runs the same code as on `problem`.

    Remainders modulo the tiles stay, along the output's length, Cout and the reduction, and with them whether
    lengths are multiples of 16; so do one whole tile along each of these and a partial one where there was
    one; so do K, stride, dilation, padding, bias, activation, dtype and layout.

    Three samples, because tiles are powers of two: where a row of tiles runs over N * L_out and L_out is no
    multiple of the tile, then neither is 3 * L_out, and the last tile is partial there too.
    """
    samples = min(problem.N, 3)
    rows = _tile(config, "BLOCK_CO") or _tile(config, "BLOCK_N") or 1
    # A kernel without a tile of the reduction has one input channel a group: its rows run over the groups.
    together = config.meta.get("PACK", 1) if "BLOCK_R" in config.meta else rows
    groups = _shrunk(problem.groups, least=max(2, together), step=together)
    return replace(
        problem,
        N=samples,
        L=_length(problem, config, samples),
        groups=groups,
        Cin=groups * _channels(problem, config),
        Cout=groups * _shrunk(problem.Cout_per_group, least=rows, step=rows),
    )


def _length(problem: Problem, config: Config, samples: int) -> int:
    columns = _tile(config, "BLOCK_L") or _tile(config, "BLOCK_M")
    columns = columns or config.meta["BLOCK_P"] * config.meta["BLOCK_Q"]
    # An input longer by this makes an output, or each phase of a transposed one, longer by a whole tile.
    grows = columns if problem.op == "conv_transpose" else columns * problem.stride
    tiles = 1.5
    if problem.op == "conv_weight":  # tiles of all samples are dealt out to the parts: to some, two of them
        tiles = max(tiles, cdiv(3 * config.meta.get("SPLIT", 1), 2 * samples))
    reach = (problem.K - 1) * problem.dilation + 1
    return _shrunk(problem.L, least=int(tiles * grows) + reach, step=grows)


def _channels(problem: Problem, config: Config) -> int:
    """Return the input channels of a group: two at least, for a second one's address."""
    depth = _tile(config, "BLOCK_R") or _tile(config, "BLOCK_K") or _NO_DEPTH
    parts = config.meta.get("SPLIT", 1) if problem.op == "conv" else 1
    # Channels last, a tile holds channels of one tap; transposed, a phase has few of the taps.
    taps = problem.K if problem.layout == "ncl" and problem.op != "conv_transpose" else 1
    # With several taps a channel, fewer channels than a tile has rows may leave the same remainder.
    least, step = cdiv((parts + 1) * depth, taps), depth // math.gcd(depth, taps)
    return _shrunk(problem.Cin_per_group, least=max(2, least), step=step)


def _tile(config: Config, name: str) -> int:
    return config.meta.get(name, 0)


def _shrunk(size: int, *, least: int, step: int) -> int:
    """Return the least number that is at least `least` and differs from `size` by a multiple of `step`."""
    return min(size, least + (size - least) % step)
