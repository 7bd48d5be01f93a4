"""Seven kernels measured on an RTX 4090: what the model says of each.

The rows are of a public set of Triton kernels (Alisehen/LLMKernel, MIT; torch 2.7.1, Triton 3.3.1, December
2025). Its times were taken under torch.use_deterministic_algorithms(True), which makes torch fill each new
tensor; `ms` is the published time less that fill, one write of y at 960 GB/s. The percentages are Nsight
Compute's, of the kernel alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.batch import batch
from autoconv.cost.constants import CONSTANTS
from autoconv.cost.memory import memory
from autoconv.cost.predict import predict
from autoconv.cost.prediction import Prediction
from autoconv.device import find
from autoconv.kernels.work import Access, AddressMap, Axis, Work, plain
from autoconv.problem import Problem

RTX4090 = find("rtx4090")
SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
KB67 = Problem(32, 64, 128, 3, 131072)


# --- plain access patterns ------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """A measured kernel that is no convolution: what its blocks touch, and the row."""

    work: Work
    grid: int
    ms: float
    ideal_bytes: int
    l2_hit_pct: float | None  # None where the published row does not say how the loads are laid out


def elementwise(elements: int, ms: float) -> Stream:
    """Blocks of 1024 floats, read and written once."""
    block = AddressMap(plain(1024, 4), plain(1, 0), (("block", 4096),), "")
    x, y = (Access(name, 1024, 4, 16, 4096, 4 * elements, block) for name in "xy")
    work = Work((("block", elements / 1024),), 1, 1024.0, (x,), y, (1, 1024), (0, 0), 2.0, tensor_cores=False)
    return Stream(work, elements // 1024, ms, 8 * elements, 50.0)


def max_pool(rows: int, columns: int) -> Stream:
    """Windows of 4 x 4 over 2048 images of 512 x 512, rows of 511 outputs; a step takes a row of taps.

    The grid is 128 blocks an image, but not how rows and columns divide into them.
    """
    x = Access(
        "x", 16 * rows * columns, 4, 4, (rows + 3) * (columns + 3) * 4, 2048 * 512 * 512 * 4,
        AddressMap(
            plain(columns, 4), Axis(4 * rows, 4, 4, 2048),
            (("column", columns * 4), ("row", rows * 2048), ("image", 512 * 2048)), "",
        ),
        rows * columns / ((rows + 3) * (columns + 3)),
    )  # fmt: skip
    y = Access(
        "y", rows * columns, 4, 4, rows * columns * 4, 2048 * 511 * 511 * 4,
        AddressMap(
            plain(columns, 4), plain(rows, 2044),
            (("column", columns * 4), ("row", rows * 2044), ("image", 511 * 2044)), "",
        ),
    )  # fmt: skip
    order = (("column", math.ceil(511 / columns)), ("row", math.ceil(511 / rows)), ("image", 2048))
    work = Work(order, 4, 16.0 * rows * columns, (x,), y, (rows, columns), (0, 0), 8.0, tensor_cores=False)
    return Stream(work, 262144, 4.661, 4286586880, None)


def depthwise_2d() -> Stream:
    """Windows of 3 x 3 over 1024 images of 512 x 512, 256 outputs of the flat 510 x 510 to a block."""
    x = Access(
        "x", 9 * 256, 4, 4, 3 * 258 * 4, 1024 * 512 * 512 * 4,
        AddressMap(plain(256, 4), Axis(9, 3, 4, 2048), (("block", 1024), ("image", 512 * 2048)), ""),
        1 / 3,
    )  # fmt: skip
    w = Access("w", 9 * 256, 4, 4, 36, 64 * 36, AddressMap(plain(256, 0), plain(9, 4), (), ""))
    y = Access(
        "y", 256, 4, 4, 1024, 1024 * 510 * 510 * 4,
        AddressMap(plain(256, 4), plain(1, 0), (("block", 1024), ("image", 510 * 2040)), ""),
    )  # fmt: skip
    order = (("block", 510 * 510 / 256), ("image", 1024))
    work = Work(order, 1, 18.0 * 256, (x, w), y, (1, 256), (0, 0), 4.0, tensor_cores=False)
    return Stream(work, 1040400, 2.335, 2139111424, 75.26)


STREAMS = {
    "elementwise 4096x393216": elementwise(4096 * 393216, 14.019),
    "elementwise 65536x16384": elementwise(65536 * 16384, 9.345),
    "max_pool2d in tiles of 32x64": max_pool(32, 64),
    "max_pool2d in tiles of 16x128": max_pool(16, 128),
    "depthwise conv2d": depthwise_2d(),
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_read_and_written_once_takes_its_bytes_at_the_reached_bandwidth(name: str) -> None:
    row = STREAMS[name]
    constants = CONSTANTS[89]
    config = Config("stream", {}, num_warps=4, num_stages=1)
    b = batch(Problem(1, 1, 1, 1, 1), [config], [row.work], [Resources(32, 0, 0)], RTX4090)
    moved = memory(b, RTX4090, constants)
    assert row.work.blocks == row.grid
    # Rows of 510 and 511 outputs store off a sector's start, and move no byte more for it.
    assert moved.dram_bytes[0] == pytest.approx(row.ideal_bytes, rel=0.001)
    milliseconds = moved.dram_bytes[0] / (RTX4090.dram_gbps * 1e6) / constants.dram_efficiency
    assert milliseconds == pytest.approx(row.ms, rel=0.015)
    if row.l2_hit_pct is not None:
        assert 100 * np.asarray(moved.l2_hit_share)[0] == pytest.approx(row.l2_hit_pct, abs=2.5)


# --- the convolutions -----------------------------------------------------------------------------

# Compiled for sm_89 by Triton 3.3.1 from kernels of the schedules that the rows name. In the last one the
# kernel's length is an argument, so each step divides: the chains of IABS, IMAD, ISETP and SEL.
SMALL_TILE = Resources(
    186, 0, 16384,
    {
        "IMAD": 450, "IABS": 2, "S2R": 3, "ISETP": 180, "ULDC": 3, "I2F": 1, "UIMAD": 1, "CS2R": 16,
        "MUFU": 1,
        "LOP3": 182, "SHF": 33, "SGXT": 3, "IADD3": 5, "F2I": 1, "PRMT": 9, "P2R": 12, "UMOV": 1, "SEL": 129,
        "LDGSTS.32": 64, "LEA": 24, "LDGDEPBAR": 4, "DEPBAR": 2, "UIADD3": 1, "UISETP": 1, "USEL": 1,
        "USHF": 1, "BAR": 10, "LDS.32": 67, "LDSM": 8, "HMMA.1688": 32, "CALL": 1, "BRA": 2, "STS.64": 16,
        "STG.32": 32, "EXIT": 2, "NOP": 12,
    },
    {
        "LOP3": 16, "DEPBAR": 1, "IMAD": 138, "UIADD3": 1, "UISETP": 1, "SHF": 17, "USEL": 1, "USHF": 1,
        "BAR": 2, "LEA": 6, "ISETP": 77, "SEL": 81, "LDS.32": 35, "LDSM": 8, "HMMA.1688": 32, "IADD3": 2,
        "LDGSTS.32": 32, "LDGDEPBAR": 2, "CALL": 1, "BRA": 1,
    },
)  # fmt: skip
LARGE_TILE = Resources(
    255, 0, 65536,
    {
        "IMAD": 721, "IABS": 2, "S2R": 5, "LOP3": 315, "ULDC": 3, "I2F": 1, "ISETP": 291, "UIMAD": 1,
        "CS2R": 32, "MUFU": 1, "SHF": 64, "SGXT": 3, "IADD3": 17, "F2I": 1, "LEA": 40, "PRMT": 18, "UMOV": 1,
        "SEL": 194, "LDGSTS.32": 96, "LDGDEPBAR": 6, "P2R": 3, "BAR": 11, "LDS.32": 134, "UIADD3": 2,
        "DEPBAR": 2, "UISETP": 1, "USEL": 1, "USHF": 1, "LDSM": 8, "HMMA.1688": 64, "CALL": 1, "BRA": 2,
        "STS.64": 32, "STG.32": 64, "EXIT": 2, "NOP": 12,
    },
    {
        "IADD3": 3, "UIADD3": 2, "DEPBAR": 1, "LOP3": 18, "UISETP": 1, "BAR": 2, "ISETP": 79, "IMAD": 167,
        "USEL": 1, "SEL": 82, "SHF": 17, "USHF": 1, "LEA": 11, "LDSM": 8, "LDS.32": 67, "HMMA.1688": 64,
        "LDGSTS.32": 32, "S2R": 1, "LDGDEPBAR": 2, "CALL": 1, "BRA": 1,
    },
)  # fmt: skip
RUN_TIME_ARGUMENTS = Resources(
    255, 64, 49152,
    {
        "IMAD": 1046, "IABS": 55, "S2R": 31, "UMOV": 5, "R2UR": 4, "I2F": 3, "LOP3": 366, "ULDC": 3,
        "IADD3": 207, "MUFU": 3, "SHF": 41, "F2I": 3, "SGXT": 27, "ISETP": 629, "UIADD3": 5, "UIMAD": 6,
        "UISETP": 4, "USEL": 4, "SEL": 467, "STL.32": 18, "LDGSTS.32": 144, "PLOP3": 62, "LDGDEPBAR": 6,
        "BAR": 11, "LDS.32": 134, "BRA": 4, "CS2R": 64, "LDL.32": 16, "DEPBAR": 2, "ULEA": 2, "USHF": 1,
        "LEA": 11, "LDSM": 8, "HMMA.1688": 64, "CALL": 1, "STS.64": 32, "STG.32": 64, "EXIT": 2, "NOP": 13,
    },
    {
        "LDL.32": 13, "IABS": 18, "IMAD": 246, "LOP3": 69, "ISETP": 201, "UIADD3": 3, "DEPBAR": 1, "R2UR": 2,
        "IADD3": 87, "S2R": 27, "SEL": 178, "UISETP": 2, "USEL": 2, "ULEA": 2, "BAR": 2, "USHF": 1,
        "LDS.32": 67, "LEA": 10, "LDSM": 8, "HMMA.1688": 64, "LDGSTS.32": 48, "I2F": 1, "MUFU": 1, "F2I": 1,
        "UMOV": 2, "UIMAD": 2, "SHF": 24, "LDGDEPBAR": 2, "SGXT": 24, "CALL": 1, "BRA": 1,
    },
)  # fmt: skip


@dataclass(frozen=True)
class Convolution:
    """A measured convolution, with what stands for its kernel here."""

    problem: Problem
    config: Config
    resources: Resources
    grid: int
    ms: float
    warps_active_pct: float
    l2_hit_pct: float
    dram_throughput_pct: float


def rows(m: int, n: int, k: int, num_warps: int, num_stages: int) -> Config:
    return Config("im2col_rows", {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps, num_stages)


CONVOLUTIONS = {
    "small tile": Convolution(
        SEED, rows(64, 64, 32, 4, 2), SMALL_TILE, 149516, 10.532, 16.54, 58.73, 94.85
    ),
    "small tile, as profiled": Convolution(
        SEED, rows(64, 64, 32, 4, 2), Resources(184, 0, 16384), 149516, 10.532, 16.54, 58.73, 94.85
    ),
    "large tile": Convolution(
        SEED, rows(128, 128, 32, 8, 3), LARGE_TILE, 37379, 6.713, 16.65, 66.78, 92.81
    ),
    "run-time arguments": Convolution(
        KB67, rows(64, 128, 32, 4, 3), RUN_TIME_ARGUMENTS, 65535, 4.377, 16.54, 89.32, 63.92
    ),
}  # fmt: skip


def predicted(row: Convolution) -> Prediction:
    return predict(row.problem, row.config, RTX4090, row.resources)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution(name: str) -> None:
    row = CONVOLUTIONS[name]
    found = predicted(row)
    assert found.blocks == row.grid
    assert found.seconds * 1e3 == pytest.approx(row.ms, rel=0.05)
    assert found.l2_hit_pct == pytest.approx(row.l2_hit_pct, abs=2)
    assert found.warps_active_pct == pytest.approx(row.warps_active_pct, abs=0.2)


@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name != "run-time arguments"])
def test_what_dram_bounds(name: str) -> None:
    """Nsight Compute holds the SM's clock at its base, so the share of what the SM bounds is another."""
    row = CONVOLUTIONS[name]
    found = predicted(row)
    assert found.bound == "dram"
    assert found.dram_throughput_pct == pytest.approx(row.dram_throughput_pct, abs=6)


def test_where_the_bytes_of_the_small_tile_come_from() -> None:
    found = predicted(CONVOLUTIONS["small tile"])
    # x goes by once for each of two tiles of Cout, the weight's 98 KB once, y once.
    x_bytes, y_bytes = 64 * 64 * 224280 * 4, 64 * 128 * 74758 * 4
    assert found.dram_read_bytes == pytest.approx(2 * x_bytes, rel=1e-3)
    assert found.dram_bytes == found.dram_read_bytes + y_bytes


@pytest.mark.parametrize("device", ["rtx4090", "rtx3090", "a100-80gb", "h100-sxm"])
def test_rows_off_a_sector_s_start_move_no_more_bytes_than_others(device: str) -> None:
    """A line is complete before it is written back, on any architecture: nothing is fetched for a store."""
    for length in (224280, 224280 + 6):  # rows of 74758 outputs and of 74760
        problem = Problem(64, 64, 128, 3, length, stride=3, dilation=4)
        found = predict(problem, rows(64, 128, 32, 8, 2), device, Resources(128, 0, 24576))
        assert found.dram_bytes == pytest.approx(problem.ideal_bytes, rel=0.01)
