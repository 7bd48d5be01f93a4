"""What the kernels' address maps say, held against the addresses that their launches touch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoconv.kernels.registry import kernels

RECORDED = Path(__file__).with_name("recorded_addresses.py")


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, dict[str, Any]]]:
    """By kernel and problem: how many claims of the maps were compared, and those that do not hold."""
    done = subprocess.run(
        [sys.executable, str(RECORDED)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", list(kernels()))
def test_launches_touch_the_addresses_that_the_map_says(
    name: str, recorded: dict[str, dict[str, dict[str, Any]]]
) -> None:
    of_kernel = recorded[name]
    assert {problem: row["failures"] for problem, row in of_kernel.items() if row["failures"]} == {}
    assert all(row["compared"] >= 10 for row in of_kernel.values())


def test_every_kernel_that_runs_channels_last_is_looked_at_so(
    recorded: dict[str, dict[str, dict[str, Any]]],
) -> None:
    assert all(any("layout=nlc" in problem for problem in rows) for rows in recorded.values())
