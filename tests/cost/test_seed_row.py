"""The one row that Nsight Compute measured: 64x64x32 tiles on an RTX 4090, built by Triton 3.3."""

from __future__ import annotations

import pytest

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.predict import predict
from autoconv.cost.prediction import Prediction
from autoconv.problem import Problem

SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
ROWS = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
X_BYTES = 64 * 64 * 224280 * 4
Y_BYTES = 64 * 128 * 74758 * 4


@pytest.fixture(scope="module")
def row() -> Prediction:
    return predict(SEED, ROWS, "rtx4090", Resources(registers=184, spills=0, shared=16384))


def test_the_measured_row(row: Prediction) -> None:
    assert row.blocks == 149516
    assert row.warps_active_pct == pytest.approx(16.54, abs=0.2)
    assert row.dram_throughput_pct == pytest.approx(94.85, abs=5)
    assert row.l2_hit_pct == pytest.approx(58.73, abs=6)
    assert row.sm_throughput_pct == pytest.approx(23.15, abs=5)
    assert row.seconds == pytest.approx(13.08e-3, rel=0.10)
    assert row.bound == "dram"


def test_where_its_bytes_come_from(row: Prediction) -> None:
    # x goes by once for each of two tiles of Cout, and the weight's 98 KB once.
    assert row.dram_read_bytes == pytest.approx(2 * X_BYTES, rel=1e-3)
    # Three rows of y in four start in the middle of a sector, so their stores end in the middle of one.
    assert row.dram_fill_bytes == pytest.approx(0.75 * Y_BYTES, rel=0.05)
    assert row.dram_bytes == row.dram_read_bytes + row.dram_fill_bytes + Y_BYTES


def test_rows_that_start_on_a_sector_need_no_fetch() -> None:
    aligned = Problem(64, 64, 128, 3, 224280 + 6, stride=3, dilation=4)
    assert aligned.L_out % 8 == 0
    found = predict(aligned, ROWS, "rtx4090", Resources(184, 0, 16384))
    assert found.dram_fill_bytes == 0


def test_a_tile_of_all_channels_reads_x_once() -> None:
    whole = Config("im2col_rows", {**ROWS.tiles, "BLOCK_N": 128}, num_warps=8, num_stages=2)
    found = predict(SEED, whole, "rtx4090", Resources(128, 0, 24576))
    assert found.dram_read_bytes == pytest.approx(X_BYTES, rel=1e-3)
