"""Sectors and lines, for address maps whose counts can be done by hand; reuse in the L2 by launch order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoconv.config import Config
from autoconv.cost.batch import batch
from autoconv.cost.constants import CONSTANTS
from autoconv.cost.guess import guess, warp_grid
from autoconv.cost.memory import memory, visits
from autoconv.cost.traffic import count_map
from autoconv.device import find
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.work import AddressMap, Axis, plain
from autoconv.problem import Problem


@pytest.mark.parametrize(
    ("lanes", "vector", "sectors", "lines"),
    [
        (plain(32, 4), 4, 4, 1),  # 32 neighbouring floats
        (plain(128, 4), 16, 16, 4),  # four each
        (plain(32, 8), 4, 8, 2),  # every other float
        (plain(32, 32), 4, 32, 8),  # one in a sector
        (plain(32, 4096), 4, 32, 32),  # one in a line
        (plain(32, 0), 4, 1, 1),  # all the same
        (Axis(32, 4, 4, 1024), 4, 8, 8),  # four neighbours, eight times
    ],
)
def test_a_request(lanes: Axis, vector: int, sectors: float, lines: float) -> None:
    found = count_map(AddressMap(lanes, plain(1, 0)), vector, 4)
    assert (found.sectors, found.lines) == (sectors, lines)


def test_a_misaligned_run_touches_one_sector_more() -> None:
    lanes = AddressMap(plain(32, 4), plain(1, 0), (("m", 4),))
    aligned = AddressMap(plain(32, 4), plain(1, 0), (("m", 128),))
    assert count_map(aligned, 4, 4).sectors == 4
    rows = AddressMap(plain(32, 4), plain(8, 4 + 128), (("m", 128),))  # seven rows of eight start askew
    assert count_map(rows, 4, 4).sectors == pytest.approx(4 + 7 / 8)
    assert count_map(lanes, 4, 4).sectors >= 4


def test_taps_of_one_step_share_sectors() -> None:
    taps = AddressMap(plain(32, 4), Axis(8, 8, 4, 0), reduction="")
    found = count_map(taps, 4, 4)
    assert found.unique_sectors == 5  # 32 + 7 floats
    assert found.sectors > 4


def test_warps_cover_the_tile_as_triton_places_them() -> None:
    assert warp_grid((64, 64), 4) == (2, 2)
    assert warp_grid((128, 128), 8) == (2, 4)
    assert warp_grid((16, 128), 4) == (1, 4)


def test_a_swizzle_spares_the_dram() -> None:
    """Groups of windows let tiles of Cout find x in the L2; without them a huge weight goes by each time."""
    problem = Problem(1, 8192, 8192, 1, 8192, dtype="float16")
    device = replace(find("a100-80gb"), l2_bytes=24 << 20)
    tiles = {"BLOCK_CO": 128, "BLOCK_L": 128, "BLOCK_R": 32}
    read = {}
    for group in (1, 8):
        config = Config("pointwise", {**tiles, "GROUP_L": group, "X_BYTES": 16}, num_warps=8, num_stages=3)
        work = kernel_called("pointwise").work(problem, config)
        b = batch(problem, [config], [work], [guess(config, work, device.arch)], device)
        read[group] = float(memory(b, device, CONSTANTS[80]).dram_read_bytes[0])
    assert read[8] < 0.8 * read[1]


@pytest.mark.parametrize(("stride", "passes"), [(2, 2), (4, 4), (16, 8)])
def test_passes_that_each_write_a_part_of_every_sector_are_not_one_write(stride: int, passes: int) -> None:
    """A phase of a transposed convolution leaves gaps that the next phase fills, all samples later."""
    tiles = {"BLOCK_CO": 64, "BLOCK_L": 128, "BLOCK_R": 16}
    config = Config("transposed_phases", tiles, num_warps=4, num_stages=3)
    device = find("rtx4090")
    for samples, expected in ((256, passes), (1, 1)):  # y is 537 MB, which the L2 lets go, then 2.1 MB
        problem = Problem(samples, 32, 64, stride, 8192 // stride, stride=stride, op="conv_transpose")
        work = kernel_called("transposed_phases").work(problem, config)
        b = batch(problem, [config], [work], [guess(config, work, device.arch)], device)
        written = float(memory(b, device, CONSTANTS[89]).dram_write_bytes[0])
        assert written == pytest.approx(expected * work.write.tensor_bytes, rel=0.05)


def test_reuse_needs_an_l2_that_holds_what_lies_between() -> None:
    problem = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
    config = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
    work = kernel_called("im2col_rows").work(problem, config)
    device = find("rtx4090")
    b = batch(problem, [config], [work], [guess(config, work, device.arch)], device)
    x, w = b.reads
    together = b.blocks * 0 + 256
    assert visits(x, b, together, device.l2_bytes)[0] == 2
    assert visits(x, b, together, 100e9)[0] == 1
    assert visits(w, b, together, device.l2_bytes)[0] == 1
