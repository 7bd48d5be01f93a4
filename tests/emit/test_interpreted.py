"""Emitted files compute what torch computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from autoconv.settings import child_environment

CHECKS = Path(__file__).with_name("interpreted_checks.py")


def test_emitted_files_in_the_interpreter(tmp_path):
    """Runs interpreted_checks.py: a process either compiles kernels, as this one does, or interprets them."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            str(CHECKS),
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={tmp_path}",
        ],
        cwd=CHECKS.parents[2],
        env=child_environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout
