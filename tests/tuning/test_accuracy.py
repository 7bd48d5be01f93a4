"""How far predictions are off, as told: by kernel, and between two of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from autoconv.config import Config
from autoconv.cost.predict import estimate
from autoconv.cost.prediction import Prediction
from autoconv.device import find
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.tuning.accuracy import OVER_ALL_PCT, TYPICAL_ERROR_PCT, model_error_pct, within_error

MEASURED = Path(__file__).parents[2] / "docs" / "measured_h200.md"
DENSE = Config("dense", {"BLOCK_CO": 64, "BLOCK_L": 64, "BLOCK_R": 32}, num_warps=4, num_stages=3)


def test_the_errors_are_those_of_the_page_on_measurements() -> None:
    """The page is written where a GPU was measured on; what it says is what commands say of predictions."""
    table = MEASURED.read_text(encoding="utf-8").partition("## The model against it")[2]
    rows = re.findall(r"^\| (\w+) \| \d+ \| [\d.]+ \| ([\d.]+) \|", table, re.MULTILINE)
    assert {name: float(error) for name, error in rows} == {**TYPICAL_ERROR_PCT, "all": OVER_ALL_PCT}


def test_what_was_never_measured_is_as_far_off_as_all_together() -> None:
    assert model_error_pct(replace(DENSE, kernel="new")) == OVER_ALL_PCT
    assert model_error_pct(DENSE) == TYPICAL_ERROR_PCT["dense"]
    assert model_error_pct(ATEN) is None


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    return estimate(Problem(8, 64, 64, 3, 4096), DENSE, find("rtx4090"))


@pytest.mark.parametrize("kernel", ["depthwise_banded", "dense", "new"])
def test_a_difference_counts_beyond_the_larger_of_the_two_errors(kernel: str, prediction: Prediction) -> None:
    other = replace(DENSE, kernel=kernel)
    error = max(TYPICAL_ERROR_PCT["dense"], TYPICAL_ERROR_PCT.get(kernel, OVER_ALL_PCT))
    for percent, expected in ((error - 0.1, error), (error + 0.1, None)):
        slower = replace(prediction, seconds=prediction.seconds * (1 + percent / 100))
        assert within_error((DENSE, prediction), (other, slower)) == expected
        assert within_error((other, slower), (DENSE, prediction)) == expected


def test_what_cannot_be_launched_is_apart_from_all(prediction: Prediction) -> None:
    never = replace(prediction, seconds=float("inf"))
    assert within_error((DENSE, prediction), (DENSE, never)) is None
    assert within_error((DENSE, never), (DENSE, never)) is None
