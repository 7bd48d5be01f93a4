"""The check that guards the database: it passes what is right and catches every kind of fault."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUNS = 2  # of verify, whose counts are those of both together
ROWS, LENGTH, TILE = 2 * 4, 38, 16  # of y, and of the wrong kernels
WRONG = [
    "the last tile is left out",
    "no mask on the store",
    "a tap too far",
    "no bias",
    "bias twice in one channel",
    "NaN in the padding",
    "products in float16",
    "writes before the start",
    "nothing at all",
    "infinity",
]


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    out = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("wrong_kernels.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    found: dict[str, Any] = json.loads(out.stdout)
    return found


def test_the_right_kernel_passes(printed: dict[str, Any]) -> None:
    verdict = printed["verdicts"]["none"]
    assert (verdict["ok"], verdict["unwritten"], verdict["overrun"]) == (True, 0, 0)
    assert 0 < verdict["max_rel_err"] < 1e-6


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_kernel_fails(fault: str, printed: dict[str, Any]) -> None:
    assert set(printed["verdicts"]) == {"none", *WRONG}
    assert printed["verdicts"][fault]["ok"] is False


def test_what_was_not_written_is_counted(printed: dict[str, Any]) -> None:
    assert printed["verdicts"]["the last tile is left out"]["unwritten"] == RUNS * ROWS * (LENGTH % TILE)
    nothing = printed["verdicts"]["nothing at all"]
    assert nothing["unwritten"] == RUNS * ROWS * LENGTH
    assert nothing["max_rel_err"] == math.inf
    # NaN looks like what was never written: here, the first and the last output of each row.
    assert printed["verdicts"]["NaN in the padding"]["unwritten"] == RUNS * ROWS * 2


def test_what_was_written_outside_is_counted(printed: dict[str, Any]) -> None:
    assert printed["verdicts"]["no mask on the store"]["overrun"] == RUNS * (-LENGTH % TILE)
    before = printed["verdicts"]["writes before the start"]
    assert (before["overrun"], before["unwritten"]) == (RUNS * 2, 0)


def test_a_fault_in_few_elements_shows_in_the_error(printed: dict[str, Any]) -> None:
    for fault in ("a tap too far", "no bias", "bias twice in one channel"):
        assert printed["verdicts"][fault]["max_rel_err"] > 0.01
    assert 1e-5 < printed["verdicts"]["products in float16"]["max_rel_err"] < 1e-3
    assert printed["verdicts"]["infinity"]["max_rel_err"] == math.inf


@pytest.mark.parametrize("kernel", ["dense", "im2col_rows"])
def test_any_strides_of_x_will_do(kernel: str, printed: dict[str, Any]) -> None:
    errors = {name: error for name, error in printed["errors"].items() if name.startswith(f"{kernel},")}
    assert len(errors) == 9
    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}
