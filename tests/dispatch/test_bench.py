from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"


def printed(script: str, *arguments: str) -> dict[str, Any]:
    """The one JSON object that a benchmark prints."""
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(line)
    assert {"python", "torch", "triton", "cpu", "load_average"} <= set(result["environment"])
    return result


def test_the_benchmark_of_a_call_runs_and_accounts_for_the_hit():
    """That it runs, and what it prints; how the times compare is for whoever reads them."""
    result = printed("dispatch.py", "3")
    of_calls = {"kernel[grid]", "triton.autotune", "conv1d", "ModelNew", "Conv1d", "accelerated"}
    assert of_calls <= set(result["net_ratio_to_plain"])
    assert all(us > 0 for us in result["median_us"].values())
    codes = result["bytecodes"]  # the same each time
    assert codes["launch"] < codes["conv1d"] < codes["Conv1d"] < codes["kernel[grid]"]
    assert 95 <= sum(result["share_of_hit_pct"].values()) <= 105


@pytest.mark.long
def test_the_benchmark_of_a_fresh_process_runs():
    result = printed("cold.py")
    assert result["bytes_of_a_plan"] > 0
    for process in ("torch", "compiled in the call", "compiled before"):
        assert {"first call", "second call", "call 1000"} <= set(result["ms"][process])
