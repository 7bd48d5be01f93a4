"""Where Triton's lanes lie: along the columns of x and y wherever memory runs along them.

Triton chooses, and by other rules before 3.7 than from then on. A warp whose lanes lie along rows moves one
element of each of 32 channels, which an H100 takes five times as long for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

import pytest

from autoconv.compiler.candidate import compiled_kernel
from autoconv.config import Config
from autoconv.device import find
from autoconv.problem import Problem

DEVICES = ("rtx4090", "h100-sxm")

ODD = Problem(8, 96, 128, 3, 2001, padding=1)
POINTWISE = Problem(8, 96, 128, 1, 2001)
STRIDED = Problem(8, 96, 128, 5, 2001, padding=2, stride=2)
EVEN_STRIDED = Problem(8, 96, 128, 3, 2000, stride=3, dilation=4)  # 664 outputs, known to be aligned
TRANSPOSED = Problem(8, 128, 64, 16, 201, stride=8, op="conv_transpose", padding=4)
UNEVEN = Problem(8, 128, 64, 7, 201, stride=3, op="conv_transpose", padding=2)
GROUPED = Problem(8, 128, 128, 5, 2001, padding=2, stride=3, groups=4)
DEPTHWISE = Problem(8, 128, 128, 5, 2001, padding=2, stride=3, groups=128)

GEMM = {"BLOCK_CO": 64, "BLOCK_L": 64, "BLOCK_R": 32}
CASES = [
    *(("dense", GEMM, problem) for problem in (ODD, POINTWISE, STRIDED, EVEN_STRIDED)),
    ("tap_major", GEMM, ODD),
    ("pointwise", {**GEMM, "GROUP_L": 8, "X_BYTES": 16}, POINTWISE),
    ("split_k", {**GEMM, "SPLIT": 2}, STRIDED),
    ("grouped", {**GEMM, "BLOCK_CO": 32, "PACK": 1}, GROUPED),
    ("depthwise", {"BLOCK_CO": 4, "BLOCK_L": 128}, DEPTHWISE),
    *(("transposed_rows", {**GEMM, "BLOCK_CO": 16}, problem) for problem in (TRANSPOSED, UNEVEN)),
]

_LAYOUT = re.compile(
    r"#(blocked\d*) = #ttg.blocked<\{sizePerThread = \[([\d, ]+)\], threadsPerWarp = \[([\d, ]+)\]"
)
_MOVE = re.compile(
    r"(async_copy_global_to_local|tt\.load|tt\.store) .*tensor<([\dx]+)x!tt\.ptr<\w+>, #(\w+)>"
)


class Move(NamedTuple):
    """A copy, load or store of a tile."""

    what: str
    tile: tuple[int, ...]
    of_thread: tuple[int, ...]
    lanes: tuple[int, ...]


def moves(problem: Problem, config: Config, device: str) -> list[Move]:
    """Return what the compiled kernel moves, as its last Triton IR has it."""
    text = compiled_kernel(problem, config, find(device)).asm["ttgir"]
    layouts = {name: (_numbers(own), _numbers(lanes)) for name, own, lanes in _LAYOUT.findall(text)}
    return [
        Move(what, tuple(map(int, tile.split("x"))), *layouts[layout])
        for what, tile, layout in _MOVE.findall(text)
    ]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("kernel", "tiles", "problem"), CASES, ids=str)
def test_lanes_lie_along_columns(
    kernel: str, tiles: dict[str, int], problem: Problem, dtype: str, device: str
) -> None:
    found = moves(
        replace(problem, dtype=dtype, precision=""), Config(kernel, tiles, num_warps=4, num_stages=3), device
    )
    columns = tiles["BLOCK_L"]
    rows = {"depthwise": tiles["BLOCK_CO"]}.get(kernel, tiles.get("BLOCK_R"))
    of_x = [move for move in found if move.what != "tt.store" and move.tile == (rows, columns)]
    of_y = [move for move in found if move.what == "tt.store"]
    assert of_x and of_y
    for move in of_x:
        assert move.lanes == (1, 32) and move.of_thread == (1, 1), move
    for move in of_y:
        assert move.of_thread[-1] > 1 or move.lanes[0] == 1, move  # where several are known to be neighbours
