from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "scripts" / "bench" / "dispatch.py"


def test_the_benchmark_of_a_call_runs_and_accounts_for_the_hit():
    """That it runs, and what it prints; how the times compare is for whoever reads them."""
    done = subprocess.run([sys.executable, str(BENCH), "5"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert {"kernel[grid]", "triton.autotune", "plan", "launch"} <= set(result["ratio_to_hit"])
    assert all(ratio > 0 for ratio in result["ratio_to_hit"].values())
    assert 80 <= sum(result["share_of_hit_pct"].values()) <= 120
    assert {"python", "torch", "triton", "cpu", "load_average"} <= set(result["environment"])
