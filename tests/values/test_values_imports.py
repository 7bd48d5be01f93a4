from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "triton", "click", "rich", "sqlite_utils", "filelock", "numpy")


@pytest.mark.parametrize("module", ["errors", "problem", "config", "device", "environment", "settings"])
def test_values_load_nothing_heavy(module):
    code = f"import sys, autoconv.{module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == ""
